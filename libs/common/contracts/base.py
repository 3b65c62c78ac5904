"""What all topic payloads have in common, and the few types that several areas use.

A ``.v1`` payload only ever gains optional fields: a reader ignores fields it does not know, so that a
newer writer does not break it. Numbers are finite, times carry an offset and are UTC inside.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Annotated, ClassVar, Self

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    JsonValue,
)

from libs.common.errors import WrongValue
from libs.common.ids import SiteId

__all__ = [
    "EARLIEST",
    "LATEST",
    "PLATFORM_SITE",
    "Amount",
    "CalendarDate",
    "Code",
    "Count",
    "EntityKey",
    "Flag",
    "Fraction",
    "JsonObject",
    "Network",
    "Number",
    "Payload",
    "Phase",
    "PointName",
    "TimeOfDay",
    "UtcTime",
    "Value",
    "needs",
]

PLATFORM_SITE = SiteId("platform")
"""Stands where a site id is wanted and the thing belongs to no site (a full spool, a stuck worker)."""


def _refuse_guessing(value: object) -> object:
    """Refuse numbers and bare digits: whether they are seconds or milliseconds would be a guess."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or value.lstrip("+-").replace(".", "", 1).isdigit():
        raise WrongValue(
            "an RFC 3339 time with an offset, such as 2026-01-31T08:00:00+08:00",
            "带时区偏移的 RFC 3339 时间,如 2026-01-31T08:00:00+08:00",
        )
    return value


EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""No instant of ours lies outside. What does is a mistake, and breaks whatever is calculated with it (zones, hours)."""


def _to_utc(value: datetime) -> datetime:
    try:
        moment = value if value.tzinfo is UTC else value.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not EARLIEST <= moment < LATEST:
        raise WrongValue(
            f"a time from {EARLIEST.year} to {LATEST.year - 1}", f"{EARLIEST.year} 至 {LATEST.year - 1} 年间的时间"
        )
    return moment


UtcTime = Annotated[AwareDatetime, BeforeValidator(_refuse_guessing), AfterValidator(_to_utc)]
"""An instant of our times; written by anyone with any offset, held in UTC."""


def _refuse_counts(value: object, wanted: str, wanted_zh: str) -> object:
    """Refuse numbers and bare digits, which pydantic would count from 1970 or from midnight."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.lstrip("+-").replace(".", "", 1).isdigit()):
        raise WrongValue(wanted, wanted_zh)
    return value


def _refuse_days(value: object) -> object:
    return _refuse_counts(value, "a date such as 2026-01-31", "日期,如 2026-01-31")


def _refuse_seconds(value: object) -> object:
    return _refuse_counts(value, "a time of day such as 23:59:59", "时刻,如 23:59:59")


CalendarDate = Annotated[date, BeforeValidator(_refuse_days)]
"""A date of a calendar; the zone is another matter."""

TimeOfDay = Annotated[time, BeforeValidator(_refuse_seconds)]
"""What a clock on a wall shows."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; text that looks like one is refused."""


def _refuse_flags(value: object) -> object:
    if isinstance(value, bool):
        raise WrongValue("a number", "数字")
    return value


Amount = Annotated[float, BeforeValidator(_refuse_flags)]
"""A number, also as the cell of a table says it; true and false are none."""

Count = Annotated[int, BeforeValidator(_refuse_flags)]
"""A whole number, also as the cell of a table says it; true and false are none."""


def _refuse_numbers(value: object) -> object:
    return _refuse_counts(value, "a network as text, such as 10.1.0.0/16", "文本形式的网段,如 10.1.0.0/16")


Network = Annotated[IPvAnyNetwork, BeforeValidator(_refuse_numbers)]
"""A network, written as text: a number would be an address too."""

Flag = Annotated[bool, Field(strict=True)]
"""True or false; neither 0 and 1 nor words that mean them."""

Fraction = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
"""A share, 0 to 1. [1]"""

Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""A name for programs: lower case words joined with ``_``."""

PointName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""A canonical point name, one of ``points.py`` or ``x_<vendor>_<name>``."""

EntityKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
"""The id of a registry entity: safe in a path, a topic key and a file name."""

Value = bool | int | float | str
"""A plain value of a command's argument or of a piece of evidence."""


def _refuse_non_finite(value: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """Refuse NaN and Infinity at any depth: JSON has no way to write them."""
    pending: list[JsonValue] = list(value.values())
    while pending:
        item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("NaN and Infinity cannot be written as JSON")
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return value


JsonObject = Annotated[Mapping[str, JsonValue], AfterValidator(_refuse_non_finite)]
"""Any JSON object."""


class Phase(StrEnum):
    """Where in its life a finding is; ``once`` has no end."""

    BEGIN = "begin"
    UPDATE = "update"
    END = "end"
    ONCE = "once"


def needs(field: str, values: Sequence[str], *alternatives: Sequence[str]) -> dict[str, JsonValue]:
    """Return the JSON Schema that says: where ``field`` is one of ``values``, one of the field lists must be there."""
    then: list[JsonValue] = [{"required": list(fields)} for fields in alternatives]
    return {
        "if": {"properties": {field: {"enum": [str(value) for value in values]}}, "required": [field]},
        "then": then[0] if len(then) == 1 else {"anyOf": then},
    }


class Payload(BaseModel):
    """Base of every payload and of the objects inside them."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )

    ce_type: ClassVar[str | None] = None
    """CloudEvents type when it is not the name of the topic."""

    def to_json(self) -> bytes:
        """Return compact UTF-8 JSON; what is absent is left out."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Self:
        """Read a payload.

        Raises:
            pydantic.ValidationError: Not this payload; it says which field and why.
        """
        # orjson refuses NaN and Infinity anywhere, also where any JSON value may stand.
        return cls.model_validate(orjson.loads(value))
