"""Django's settings: wiring only, all of it from the environment or from .env."""

from datetime import timedelta
from pathlib import Path

from proj.environment import (
    database,
    env,
    folder,
    kept,
    number,
    package,
    port,
    redis_url,
    seconds,
    statuses,
)
from proj.logs import LOGGING as LOGGING

BASE_DIR = Path(__file__).resolve().parent.parent
env.read_env(BASE_DIR / ".env")

VAR_DIR = folder("VAR_DIR", BASE_DIR / "var")

SECRET_KEY = kept("SECRET_KEY", VAR_DIR / "secret-key")
API_TOKEN = kept("API_TOKEN", VAR_DIR / "api-token")
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
    "proj.inventory",
    "proj.cli",
    "proj.dashboard",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "proj.urls"
NINJA = package("ninja")
"""Not an installed app: Django would load it, and pydantic, into every worker."""
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "DIRS": [NINJA / "templates"],
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DATABASES = {"default": database("DATABASE_URL", VAR_DIR / "db.sqlite3")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATICFILES_DIRS = [NINJA / "static"]
# The few files there are come straight from the apps: there is nothing to collect.
WHITENOISE_USE_FINDERS = True

REDIS_URL = redis_url("REDIS_URL", "redis://127.0.0.1:6379/0")
WEB_PORT = port("WEB_PORT", 8000)
FLOWER_PORT = port("FLOWER_PORT", 5555)

LOOK_PERIOD = seconds("LOOK_PERIOD", 60)
"""Between two looks at a cluster where nothing changes."""
_LOOK = LOOK_PERIOD.total_seconds()
LOOK_PERIOD_MIN = seconds("LOOK_PERIOD_MIN", _LOOK / 6, most=_LOOK)
"""Between two looks at one where something does."""
FOLLOW_PERIOD = seconds("FOLLOW_PERIOD", 1.5)
"""Between two readings of a cluster's job queue."""
BEAT_PERIOD = seconds("BEAT_PERIOD", 1)
"""How often beat asks which clusters are due."""
KEEP = timedelta(days=number("KEEP_DAYS", 14, unit="days"))
"""How long closed requests are kept; transitions are kept for ever."""
GANETI_STATUSES = statuses("GANETI_STATUSES")
"""Words of Ganeti's that are to mean another status than by default."""
GONE_AFTER = seconds("GONE_AFTER", 10, zero=True)
"""The least time between the two lists that prove an instance gone."""
PROOF_WITHIN = seconds("PROOF_WITHIN", 60)
"""Where no job could prove a change for so long, lists that agree settle it."""
