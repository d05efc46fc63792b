"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from tests.environment import postgres_server, redis_server

pytest_plugins = ("tests.fixtures.lab", "tests.fixtures.simulated", "tests.fixtures.workers")


@pytest.fixture(scope="session")
def redis() -> Iterator[None]:
    """A Redis of the session's own."""
    with redis_server():
        yield


@pytest.fixture(scope="session")
def database_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """The server behind DATABASE_URL, if it needs one."""
    if request.config.getoption("--database") == "sqlite":
        yield
        return
    with postgres_server():
        yield


@pytest.fixture(scope="session")
def django_db_setup(
    database_server: None, redis: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """Prepare the very database that the worker processes use, and not a copy beside it."""
    from django.db import connections

    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        yield
        connections.close_all()
