"""Calendars that ship with Wattring; one that is imported under the same id takes their place."""

from functools import cache

from libs.common import workdays
from services.control.domain.calendars import Calendar

CHINA = "cn-working-days"
"""Id of the calendar of the Chinese mainland."""
NAME = "中国大陆法定节假日与调休 / holidays and working weekends of the Chinese mainland"
SOURCE = "annual holiday notices of the General Office of the State Council, by way of chinesecalendar 1.11.0 (MIT)"


@cache
def shipped() -> tuple[Calendar, ...]:
    """Return the shipped calendars."""
    days = workdays.china()
    return (
        Calendar(
            calendar_id=CHINA, name=NAME, source=SOURCE, days=days.off, working_days=days.work,
            changed_by="wattring", changed_at=None,
        ),
    )  # fmt: skip
