"""What the tests of the chain share."""

from pathlib import Path
from typing import Any

import pytest

from tests.broken import certificate
from tests.environment import free_port


@pytest.fixture
def access(tmp_path: Path) -> dict[str, Any]:
    """Access to a cluster that nobody runs yet."""
    password = tmp_path / "password"
    password.write_text("open sesame")
    return {
        "name": "broken",
        "host": "127.0.0.1",
        "port": free_port(),
        "user": "reconciler",
        "password_file": str(password),
        "ca_file": str(certificate(tmp_path, "own")),
    }
