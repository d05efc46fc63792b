"""Is the process alive, and can the service work?"""

from django.http import HttpRequest, HttpResponse

from proj.health import problems


def healthz(request: HttpRequest) -> HttpResponse:
    """Answer, whatever else is missing."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200, or 503 with one line for each thing that is missing."""
    missing = list(problems())
    text = "\n".join(missing or ["ok"]) + "\n"
    return HttpResponse(text, content_type="text/plain", status=503 if missing else 200)
