"""A caller of the API."""

import pytest
from django.conf import settings
from django.test import Client


@pytest.fixture
def caller() -> Client:
    """A client that shows the token."""
    return Client(headers={"Authorization": f"Bearer {settings.API_TOKEN}"})
