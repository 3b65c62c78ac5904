"""Numbers, ids and times as other systems write them: read tolerantly, and nothing is guessed."""

import math
import re
from datetime import UTC, datetime, timedelta

from libs.common.contracts.base import LATEST

NO_IDS = frozenset({"", "undefined", "null", "none", "-1"})
"""Texts that stand where there is no id or no value."""
_NUMBER = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,3})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND, _MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)


def number_of(value: object) -> float | int | None:
    """Return the number that a parameter is, None where it is none."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if len(text) > 90 or _NUMBER.fullmatch(text) is None:
        return None
    found = int(text) if text.lstrip("+-").isdigit() and len(text) <= 18 else float(text)
    return found if math.isfinite(found) else None


def time_of(value: object, unit: str) -> datetime | None:
    """Return a time that was given as a number since 1970, None where it cannot be one.

    Args:
        value: Number, or text that is one.
        unit: ``ms`` or ``s``.
    """
    number = None if isinstance(value, bool) else number_of(value)
    if number is None or number < 1:
        return None
    try:
        found = _EPOCH + (_MILLISECOND if unit == "ms" else _SECOND) * number
    except OverflowError:
        return None
    return found if found < LATEST else None


def text_of(value: object) -> str | None:
    """Return an id or text that may have come as a number, None where it stands for nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = printable(str(value))
    return None if text.lower() in NO_IDS else text


def printable(text: str) -> str:
    """Return a text without what no screen shows and no database keeps (NUL), and without blanks around it."""
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return text.strip()


def whole_of(value: object) -> int | None:
    """Return the whole number that a value is, None where it is none."""
    number = number_of(value)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**53 else None
