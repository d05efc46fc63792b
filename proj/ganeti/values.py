"""Single values of an answer: read, or refused in words that an operator understands."""

from typing import Any

LONGEST_TEXT = 255
LARGEST_NUMBER = 2**31 - 1
LARGEST_JOB_ID = 2**63 - 1


def number_of(value: Any, what: str, *, largest: int = LARGEST_NUMBER) -> int:
    """Read a number, or its digits.

    Raises:
        ValueError: it is neither, or no database would keep it.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise ValueError(f"the {what} {shown(value)} is no number")
    return value


def text_of(value: Any, what: str) -> str:
    """Read a text that can be kept and shown.

    Raises:
        ValueError: it is none, or too long, or holds control characters.
    """
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ValueError(f"the {what} is {shown(value)}, not text")
    return value


def shown(value: Any) -> str:
    """Return the beginning of any value, fit to be kept and shown."""
    return ascii(value)[:60]


def printable(text: str) -> str:
    """Return a text without what no database or terminal takes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:500])


def problem_of(error: Exception) -> str:
    """Say in one line why something could not be read."""
    match error:
        case KeyError():
            return f"{shown(error.args[0])} is missing"
        case ValueError():
            return printable(str(error))
        case _:
            return "it has a shape that no known version gives"
