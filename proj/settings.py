"""Django's settings: wiring only, all of it from the environment or from .env."""

import secrets
import sys
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import environ

from proj.logs import LOGGING as LOGGING
from proj.observation import Status

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
environ.Env.read_env(BASE_DIR / ".env")


def _kept(name: str, file: str) -> str:
    """Return a secret of the environment, or one made once and kept in VAR_DIR."""
    given: str = env(name, default="")
    if given:
        return given
    kept = VAR_DIR / file
    if not kept.exists():
        # Of several processes that start at once, one makes it, and nobody reads half of it.
        with NamedTemporaryFile("w", dir=VAR_DIR, encoding="utf-8") as made:
            made.write(secrets.token_urlsafe(50))
            made.flush()
            with suppress(FileExistsError):
                kept.hardlink_to(made.name)
    return kept.read_text(encoding="utf-8").strip()


def _database() -> dict[str, Any]:
    with warnings.catch_warnings(action="ignore"):
        database: dict[str, Any] = env.db(
            "DATABASE_URL", default=f"sqlite:///{VAR_DIR / 'db.sqlite3'}"
        )
    if not database.get("ENGINE"):
        sys.exit(
            "DATABASE_URL names no database: write postgres://user@host/name or sqlite:///path"
        )
    database |= {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}
    if database["ENGINE"].endswith("sqlite3"):
        database["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    return database


def _statuses() -> dict[str, Status]:
    given: dict[str, str] = env.dict("GANETI_STATUSES", default={})
    try:
        return {word: Status(status) for word, status in given.items()}
    except ValueError as error:
        sys.exit(f"GANETI_STATUSES: {error}; write ERROR_down=ERROR,...")


VAR_DIR = Path(env("VAR_DIR", default=str(BASE_DIR / "var")))
VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = _kept("SECRET_KEY", "secret-key")
API_TOKEN = _kept("API_TOKEN", "api-token")
"""What a caller of the API has to show."""
DEBUG = env.bool("DEBUG", default=False)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "ninja",
    "proj.inventory",
    "proj.cli",
    "proj.dashboard",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "proj.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

REDIS_URL = env("REDIS_URL", default="redis://127.0.0.1:6379/0")
FLOWER_PORT = env.int("FLOWER_PORT", default=5555)

LOOK_PERIOD = timedelta(seconds=env.float("LOOK_PERIOD", default=60.0))
"""Between two looks at a cluster where nothing changes."""
LOOK_PERIOD_MIN = timedelta(
    seconds=env.float("LOOK_PERIOD_MIN", default=LOOK_PERIOD.total_seconds() / 6)
)
"""Between two looks at one where something does."""
FOLLOW_PERIOD = timedelta(seconds=env.float("FOLLOW_PERIOD", default=1.5))
"""Between two readings of a cluster's job queue."""
BEAT_PERIOD = timedelta(seconds=env.float("BEAT_PERIOD", default=1.0))
"""How often beat asks which clusters are due."""
KEEP = timedelta(days=env.float("KEEP_DAYS", default=14.0))
"""How long passes and their queries are kept; transitions are kept for ever."""
GANETI_STATUSES = _statuses()
"""Words of Ganeti's that are to mean another status than by default."""
GONE_AFTER = timedelta(seconds=env.float("GONE_AFTER", default=10.0))
"""The least time between the two lists that prove an instance gone."""
