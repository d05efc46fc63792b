"""A Redis and a PostgreSQL of the benchmark's own, as the tests have them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def servers(folder: Path) -> Iterator[None]:
    """Run both, and point the settings at them."""
    from tests import environment

    os.environ["DJANGO_SETTINGS_MODULE"] = "proj.settings"
    os.environ["DATABASE_URL"] = (
        f"postgres://postgres@127.0.0.1:{environment.POSTGRES_PORT}/postgres"
    )
    folder.chmod(0o755)
    with environment.redis_server(), environment.postgres_server():
        yield
