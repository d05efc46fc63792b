"""Who may ask: whoever shows the token."""

import secrets

from django.conf import settings
from django.http import HttpRequest
from ninja.security import APIKeyHeader
from ninja.security.http import HttpAuthBase


class Bearer(HttpAuthBase):
    """``Authorization: Bearer TOKEN``. Ninja's own class logs headers that it cannot read."""

    openapi_scheme = "bearer"

    def __call__(self, request: HttpRequest) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and _is_token(token.strip())


class XAuthToken(APIKeyHeader):
    """``X-Auth-Token: TOKEN``, as clients of OpenStack send it."""

    param_name = "X-Auth-Token"

    def authenticate(self, request: HttpRequest, key: str | None) -> bool:
        return _is_token(key or "")


def _is_token(given: str) -> bool:
    return secrets.compare_digest(given.encode(), settings.API_TOKEN.encode())
