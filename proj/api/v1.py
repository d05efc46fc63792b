"""The JSON API, described at /api/v1/docs."""

from django.conf import settings
from ninja import NinjaAPI, Swagger

from proj.api import reading, requesting
from proj.api.auth import Bearer
from proj.api.errors import answer_plainly


class Described(Swagger):
    """The page from our own static files, where Ninja would take it from somebody's network."""

    template_cdn = str(settings.NINJA / "templates" / Swagger.template)


api = NinjaAPI(
    title="Ganeti reconciler",
    version="1",
    urls_namespace="v1",
    description="What is recorded about the instances of Ganeti clusters, and how to have it"
    " reconciled. Every request needs the token; this description does not.",
    auth=Bearer(),
    docs=Described(),
)
answer_plainly(api)
api.add_router("", reading.router)
api.add_router("", requesting.router)
