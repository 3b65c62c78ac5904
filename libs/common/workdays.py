"""Which days people work on the Chinese mainland: days off and working weekends (调休), as they were published.

The State Council publishes them for one year at a time, and the file that ships with Wattring speaks only for the years
of which it has days; what is not in it goes by the day of the week.

Source:
    Annual holiday notices of the General Office of the State Council, by way of chinesecalendar 1.11.0 (MIT).
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from types import MappingProxyType

SHIPPED = "china_working_days.csv"


@dataclass(frozen=True, slots=True)
class PublishedDays:
    """Days that are not what their day of the week says, each with the festival that it belongs to."""

    off: Mapping[date, str]
    work: Mapping[date, str]


@cache
def china() -> PublishedDays:
    """Return the published days of the Chinese mainland."""
    text = (files("libs.common") / "data" / SHIPPED).read_text(encoding="utf-8")
    found: dict[str, dict[date, str]] = {"off": {}, "work": {}}
    for row in csv.DictReader(text.splitlines()):
        found[row["kind"]][date.fromisoformat(row["day"])] = row["label"]
    return PublishedDays(MappingProxyType(found["off"]), MappingProxyType(found["work"]))
