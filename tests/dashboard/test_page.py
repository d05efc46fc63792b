"""What the page tells a person."""

import contextlib
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from django.test import Client

from proj.clock import age, now
from proj.inventory.models import Hold
from tests.recorded import record_change, record_cluster, record_hold, record_instance

pytestmark = pytest.mark.django_db(transaction=True)


class Page(HTMLParser):
    """The page as read: its text, the rows of its tables, its elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self._words: list[str] = []
        self._in_row = False
        self.feed(html)
        self.text = " ".join(self._words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
            self._in_row = True

    def handle_endtag(self, tag: str) -> None:
        self._in_row = self._in_row and tag != "tr"

    def handle_data(self, data: str) -> None:
        words = data.split()
        self._words += words
        if self._in_row:
            self.rows[-1] = " ".join([*self.rows[-1].split(), *words])

    def row(self, name: str) -> str:
        """Return the text of the one row that begins with ``name``."""
        (found,) = (row for row in self.rows if row.startswith(name))
        return found

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page() -> Page:
    answer = Client().get("/")
    assert answer.status_code == 200
    return Page(answer.content.decode())


def test_a_page_about_nothing_says_how_to_begin() -> None:
    assert "manage.py cluster add" in page().text
    assert "Nothing has changed yet." in page().text


def test_a_cluster_is_shown_with_its_look_its_instances_and_its_oldest_confirmation() -> None:
    cluster = record_cluster()
    record_instance(cluster, "vm1", confirmed_at=now() - timedelta(hours=5, minutes=3))
    record_instance(cluster, "vm2", status="STOPPED")
    record_instance(cluster, "vm3", status="DELETED", confirmed_at=now() - timedelta(days=99))
    row = page().row("alpha")
    assert re.match(r"alpha in order 1\d s ago ACTIVE 1 STOPPED 1 5 h ago", row), row
    assert "each is confirmed by a job at least every 24 h" in row
    assert "1 cluster: 1 ACTIVE, 1 STOPPED." in page().text


def test_a_budget_that_cannot_keep_the_maximum_age_is_said_and_so_is_who_is_overdue() -> None:
    cluster = record_cluster(jobs_per_hour=1, confirm_max_age=timedelta(hours=2))
    for number in range(5):
        record_instance(cluster, f"vm{number}", confirmed_at=now() - timedelta(hours=number))
    row = page().row("alpha")
    assert "4 h ago, 3 overdue" in row
    assert "1 jobs an hour confirm each only every 5 h, not every 2 h" in row


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"paused": True}, ("paused", "manage.py cluster resume alpha")),
        (
            {"failures": 2, "last_error": "nothing listens at h:5080"},
            ("failing", "2 failures in a row", "nothing listens at h:5080"),
        ),
        ({"looked_not_before": None, "looked_not_after": None}, ("not looked at yet", "never")),
    ],
)
def test_a_cluster_that_needs_somebody_comes_first_and_says_why(
    values: dict[str, object], said: tuple[str, ...]
) -> None:
    record_cluster("aaa")
    record_cluster("alpha", **values)
    shown = page()
    assert shown.rows.index(shown.row("alpha")) < shown.rows.index(shown.row("aaa"))
    for words in said:
        assert words in shown.row("alpha")


def test_a_cluster_whose_job_queue_is_not_read_is_not_in_order() -> None:
    record_cluster(read_not_after=now() - timedelta(minutes=5))
    assert page().row("alpha").startswith("alpha job queue not read")
    assert "alpha: its job queue could not be read: no bound holds" in page().text


def test_what_is_held_is_shown_with_the_command_that_lets_it_through() -> None:
    hold = record_hold(record_cluster(), "vm1", "vm2")
    assert f"manage.py approve {hold.pk}" in page().text
    assert "2 of 10 instances would become DELETED" in page().text
    assert "vm1 ACTIVE → DELETED, vm2 ACTIVE → DELETED" in page().text
    assert page().row("alpha").startswith("alpha held")
    Hold.objects.update(current=False)
    assert "approve" not in page().text


def test_the_page_says_within_what_time_a_change_is_recorded() -> None:
    assert "A change is recorded within 180 s" in page().text


def test_what_changed_together_is_one_event_and_the_newest_comes_first() -> None:
    instance = record_instance(record_cluster(), "vm1")
    then = now() - timedelta(minutes=7)
    record_change(instance, then)
    record_change(instance, then, field="backend_status", before="running", after="ADMIN_down")
    record_change(instance, now(), field="memory", before=512, after=1024, folded=3)
    shown = page()
    first, second = (row for row in shown.rows if row.startswith("alpha/vm1"))
    assert "memory 512 → 1024 and 3 times more" in first
    assert second == (
        "alpha/vm1 7 min ago ACTIVE → STOPPED Ganeti: running → ADMIN_down job-convicts 17"
    )


def test_only_the_latest_changes_are_shown() -> None:
    instance = record_instance(record_cluster(), "vm1")
    for number in range(30):
        record_change(instance, now() - timedelta(seconds=30 - number), after=f"S{number}")
    events = [row for row in page().rows if row.startswith("alpha/vm1")]
    assert len(events) == 20
    assert "S29" in events[0]


def test_a_flapping_instance_is_named() -> None:
    cluster = record_cluster()
    record_instance(cluster, "calm")
    record_instance(cluster, "vm1", flapping_since=now() - timedelta(minutes=9))
    assert "alpha/vm1: now ACTIVE, began to flap 9 min ago" in page().text
    assert "alpha/calm" not in page().text


def test_what_ganeti_says_is_shown_as_text_and_never_as_markup() -> None:
    cluster = record_cluster(failures=1, last_error="<script>alert(1)</script>")
    record_change(record_instance(cluster, "vm1"), now(), after="<b>bold</b>")
    html = Client().get("/").content.decode()
    assert "<script>alert" not in html
    assert "<b>bold" not in html


def test_every_part_can_be_found_without_eyes() -> None:
    cluster = record_cluster()
    record_change(record_instance(cluster, "vm1"), now())
    shown = page()
    assert shown.attributes("html") == [{"lang": "en"}]
    assert len(shown.attributes("h1")) == len(shown.attributes("main")) == 1
    assert {it.get("scope") for it in shown.attributes("th")} == {"col", "row"}
    labels = {it["aria-labelledby"] for it in shown.attributes("section")}
    assert labels == {it["id"] for it in shown.attributes("h2")}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in (
        shown.attributes("meta")
    )


def test_every_link_and_every_file_of_the_page_is_there() -> None:
    shown = page()
    links = [it["href"] or "" for it in shown.attributes("a") + shown.attributes("link")]
    files = [it["src"] or "" for it in shown.attributes("script")]
    assert {"/admin/", "/api/v1/docs", "/metrics", "http://testserver:5555/"} <= set(links)
    for url in (it for it in links + files if it.startswith("/")):
        assert status(url) == 200, url


def test_the_description_of_the_api_needs_no_other_server() -> None:
    described = Page(Client().get("/api/v1/docs").content.decode())
    files = [it["src"] or "" for it in described.attributes("script") if "src" in it]
    files += [it["href"] or "" for it in described.attributes("link")]
    assert files
    for url in files:
        assert url.startswith("/"), url
        assert status(url) == 200, url


def status(url: str) -> int:
    with contextlib.closing(Client().get(url, follow=True)) as answer:
        return answer.status_code


def test_the_page_can_only_be_read() -> None:
    assert Client().post("/").status_code == 405


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s ago"), (0.4, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"),
        (7199, "119 min ago"), (7200, "2 h ago"), (172800, "2 d ago"),
    ],
)  # fmt: skip
def test_an_age_is_told_in_a_unit_that_fits(seconds: float, words: str) -> None:
    assert age(NOON - timedelta(seconds=seconds), NOON) == words
