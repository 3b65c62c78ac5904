"""Calendars that ship with Wattring; one that is imported under the same id takes their place."""

import csv
from datetime import date
from functools import cache
from importlib.resources import files

from services.control.domain.calendars import Calendar

SHIPPED = "china_working_days.csv"
CHINA = "cn-working-days"
"""Id of the calendar of the Chinese mainland."""
NAME = "中国大陆法定节假日与调休 / holidays and working weekends of the Chinese mainland"
SOURCE = "annual holiday notices of the General Office of the State Council, by way of chinesecalendar 1.11.0 (MIT)"


@cache
def shipped() -> tuple[Calendar, ...]:
    """Return the shipped calendars."""
    text = (files("services.control") / "data" / SHIPPED).read_text(encoding="utf-8")
    days: dict[str, dict[date, str]] = {"off": {}, "work": {}}
    for row in csv.DictReader(text.splitlines()):
        days[row["kind"]][date.fromisoformat(row["day"])] = row["label"]
    return (
        Calendar(
            calendar_id=CHINA, name=NAME, source=SOURCE, days=days["off"], working_days=days["work"],
            changed_by="wattring", changed_at=None,
        ),
    )  # fmt: skip
