"""One clear line for each thing that can go wrong, never a traceback."""

import logging

import kombu.exceptions
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError
from redis.exceptions import RedisError

TOO_MANY = 429

Raised = Exception | type[Exception]

logger = logging.getLogger(__name__)

NO_TOKEN = (
    "send the header Authorization: Bearer TOKEN; the token is API_TOKEN or VAR_DIR/api-token"
)
NO_REDIS = "no answer from Redis (REDIS_URL); ask again when it is back"
NO_DATABASE = "no answer from the database (DATABASE_URL); ask again when it is back"


def answer_plainly(api: NinjaAPI) -> None:
    """Let ``api`` answer 401 without a token, and 503 when a server is away."""

    def refuse(request: HttpRequest, _: Raised) -> HttpResponse:
        response = api.create_response(request, {"detail": NO_TOKEN}, status=401)
        response["WWW-Authenticate"] = "Bearer"
        return response

    def no_redis(request: HttpRequest, error: Raised) -> HttpResponse:
        logger.warning("%s %s: %s", request.method, request.path, error)
        return api.create_response(request, {"detail": NO_REDIS}, status=503)

    def no_database(request: HttpRequest, error: Raised) -> HttpResponse:
        logger.warning("%s %s: %s", request.method, request.path, error)
        return api.create_response(request, {"detail": NO_DATABASE}, status=503)

    def refused(request: HttpRequest, error: Raised) -> HttpResponse:
        status = getattr(error, "status_code", 400)
        response = api.create_response(request, {"detail": str(error)}, status=status)
        if status == TOO_MANY:
            response["Retry-After"] = "10"
        return response

    api.add_exception_handler(AuthenticationError, refuse)
    api.add_exception_handler(HttpError, refused)
    api.add_exception_handler(RedisError, no_redis)
    api.add_exception_handler(kombu.exceptions.OperationalError, no_redis)
    api.add_exception_handler(OperationalError, no_database)
