"""Settings from the environment; a wrong one ends the process with one clear line."""

import math
import secrets
import sys
import warnings
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NoReturn

import environ
from redis import ConnectionPool

from proj.observation import Status

WRONG_SETTING = 2
"""The exit code."""

MOST = 1e9
"""Seconds, or days: more is no setting but a slip."""

_ENGINES = ("sqlite3", "postgresql")

env = environ.Env()


def wrong(text: str) -> NoReturn:
    """End the process: a setting has to be changed first."""
    print(text, file=sys.stderr)
    raise SystemExit(WRONG_SETTING)


def package(name: str) -> Path:
    """Return the folder of a package, without loading it."""
    found = find_spec(name)
    if found is None or found.origin is None:
        wrong(f"the package {name} is not installed: run make setup")
    return Path(found.origin).parent


def folder(name: str, default: Path) -> Path:
    """Return a folder of our own, made if need be."""
    path = Path(env(name, default=str(default)))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        wrong(f"{name}: cannot make the folder {path}: {error.strerror}")
    return path


def kept(name: str, place: Path) -> str:
    """Return a secret of the environment, or one made once and kept in a file."""
    given: str = env(name, default="")
    if given:
        return given
    if not place.exists():
        # Of several processes that start at once, one makes it, and nobody reads half of it.
        with NamedTemporaryFile("w", dir=place.parent, encoding="utf-8") as made:
            made.write(secrets.token_urlsafe(50))
            made.flush()
            with suppress(FileExistsError):
                place.hardlink_to(made.name)
    return place.read_text(encoding="utf-8").strip()


def number(
    name: str, default: float, *, unit: str = "seconds", zero: bool = False, most: float = MOST
) -> float:
    """Return a number above zero, or of at least zero, and not above ``most``."""
    given: str = env(name, default=str(default))
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if (value > 0 or (zero and value == 0)) and value <= most:
        return value
    least = "0 or more" if zero else "more than 0"
    limit = "" if most == MOST else f" and at most {most:g}"
    wrong(f"{name} is {given!r}: write a number of {unit}, {least}{limit}; without it {default:g}")


def seconds(name: str, default: float, *, zero: bool = False, most: float = MOST) -> timedelta:
    """Return a span of time."""
    return timedelta(seconds=number(name, default, zero=zero, most=most))


def port(name: str, default: int) -> int:
    """Return the number of a port."""
    given: str = env(name, default=str(default))
    if given.isdecimal() and 0 < int(given) < 65536:
        return int(given)
    wrong(f"{name} is {given!r}: write the number of a port, 1 to 65535; without it {default}")


def redis_url(name: str, default: str) -> str:
    """Return where Redis is."""
    url: str = env(name, default=default)
    try:
        scheme, _, place = url.partition("://")
        path = place.partition("/")[2].partition("?")[0]
        is_right = scheme in ("redis", "rediss") and (not path or path.isdecimal())
        if is_right and ConnectionPool.from_url(url):
            return url
    except ValueError:
        pass
    # The value stays unsaid: it may hold a password.
    wrong(f"{name} cannot be read: write redis://host:port/number, such as {default}")


def database(name: str, default: Path) -> dict[str, Any]:
    """Return Django's settings of the database."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found: dict[str, Any] = env.db(name, default=f"sqlite:///{default}")
    except ValueError:
        found = {}
    if not str(found.get("ENGINE")).endswith(_ENGINES):
        wrong(f"{name} names no database: write postgres://user@host/name or sqlite:///path")
    found |= {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}
    if found["ENGINE"].endswith("sqlite3"):
        found["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    else:
        options = found.setdefault("OPTIONS", {})
        uses = str(options.get("prepare_threshold", 2))
        if not (uses == "none" or uses.isdecimal()):
            wrong(f"{name}: prepare_threshold is a number of uses, or none")
        options["prepare_threshold"] = None if uses == "none" else int(uses)
    return found


def statuses(name: str) -> dict[str, Status]:
    """Return what words of Ganeti's are to mean."""
    try:
        given: dict[str, str] = env.dict(name, default={})
        return {word: Status(status) for word, status in given.items()}
    except ValueError:
        wrong(f"{name}: write ERROR_down=ERROR,...; a status is one of {', '.join(Status)}")
