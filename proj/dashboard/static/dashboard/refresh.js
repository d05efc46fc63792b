// Fetches the page again every few seconds while it is shown, and says so when it cannot.
const PERIOD = 5000;

async function refresh() {
  if (document.hidden) return;
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(PERIOD) });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}

setInterval(refresh, PERIOD);
