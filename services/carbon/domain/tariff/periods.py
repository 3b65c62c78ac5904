"""Which band every moment lies in: tariffs with versions, seasons and special days.

A tariff is what one customer class of one region pays by. Its versions follow each other and never overlap;
the windows of a version tile each civil month's day, so that every minute lies in exactly one band. Windows of
special days (holidays, rest days, hot days) replace the band inside themselves on the days of their kind.

Source:
    The platform's energy methods, section 9; each row names the notice that it comes from.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

from libs.common.errors import InvalidFile, Problem

DAY_MIN = 24 * 60
ALL_DAYS = "all"
PRECEDENCE = ("hot_day", "restday", "holiday")
"""Where a day is of several kinds, the later one replaces the earlier; kinds that are not named come first."""


class Band(StrEnum):
    """尖、峰、平、谷、深谷: the hours that share a price."""

    SHARP = "sharp"
    PEAK = "peak"
    FLAT = "flat"
    VALLEY = "valley"
    DEEP_VALLEY = "deep_valley"


@dataclass(frozen=True, slots=True, kw_only=True)
class TariffRow:
    """One window of one tariff, as a file or a person states it."""

    line: int | None
    """Where it stands, for messages; None outside of files."""
    tariff_id: str
    region: str
    """``CN-44``: country and province code (GB/T 2260)."""
    customer_class: str
    valid_from: date
    valid_to: date | None
    """The last day, which belongs to it; None while nothing has ended it."""
    months: frozenset[int]
    day_type: str
    """``all``, or the kind of day on which the window replaces what ``all`` says."""
    start_min: int
    """Minute of the civil day. [min]"""
    end_min: int
    """Not included; 1440 is the next midnight. [min]"""
    band: Band
    ratio: Decimal
    """Of the part of the price that floats. [1]"""
    ratio_base: str
    """Which part floats: ``total_ex_funds``, ``energy_purchase_price`` …"""
    source: str
    confidence: str


@dataclass(frozen=True, slots=True)
class Window:
    """A band within a day, ``[start, end)``."""

    start_min: int
    end_min: int
    band: Band
    ratio: Decimal


@dataclass(frozen=True, slots=True)
class Special:
    """A window of one kind of day."""

    day_type: str
    valid_from: date
    valid_to: date | None
    months: frozenset[int]
    window: Window
    source: str

    def applies(self, day: date) -> bool:
        """Return whether it is in force on a day, if the day is of its kind."""
        return day.month in self.months and _within(day, self.valid_from, self.valid_to)


@dataclass(frozen=True, slots=True)
class TariffVersion:
    """The windows between two notices."""

    tariff_id: str
    valid_from: date
    valid_to: date | None
    """The last day; None while nothing has ended it."""
    ratio_base: str
    source: str
    confidence: str
    months: Mapping[int, tuple[Window, ...]] = field(repr=False)
    """Windows of each month of its validity; they tile the day, in order."""
    specials: tuple[Special, ...] = field(repr=False)
    """What replaces them on special days, for the class of the tariff that this version belongs to."""

    @property
    def trusted(self) -> bool:
        """Whether periods and ratios are checked against a source; dates may still come from memory."""
        return is_trusted(self.confidence)

    def holds_on(self, day: date) -> bool:
        """Return whether it is in force on a civil day."""
        return _within(day, self.valid_from, self.valid_to)


@dataclass(frozen=True, slots=True)
class Tariff:
    """What one customer class of one region pays by, through the years."""

    region: str
    customer_class: str
    versions: tuple[TariffVersion, ...]
    """Sorted by ``valid_from``; they never overlap, but may leave gaps."""

    def version_on(self, day: date) -> TariffVersion | None:
        """Return what is in force on a civil day, or None: the band is then unknown."""
        for version in self.versions:
            if version.holds_on(day):
                return version
        return None


@dataclass(frozen=True, slots=True)
class DayCalendar:
    """Which days are of a special kind, and for which time that is known at all."""

    days: Mapping[str, frozenset[date]] = field(default_factory=dict)
    """By kind of day."""
    known: Mapping[str, Sequence[tuple[date, date]]] = field(default_factory=dict)
    """By kind of day: spans ``[from, to)`` in which every such day is in ``days``."""

    def kinds_on(self, day: date) -> frozenset[str]:
        """Return the kinds that a day is known to be of."""
        return frozenset(kind for kind, days in self.days.items() if day in days)

    def knows(self, kind: str, day: date) -> bool:
        """Return whether it is known if a day is of a kind."""
        return day in self.days.get(kind, ()) or any(start <= day < end for start, end in self.known.get(kind, ()))


def build_tariffs(rows: Iterable[TariffRow], *, source: str) -> dict[tuple[str, str], Tariff]:
    """Return the tariffs of some rows by (region, customer class).

    A version belongs to the class of its ``all`` rows and to every class that special days of the same tariff
    name: these pay by the same windows and have special days of their own.

    Args:
        rows: The windows, in any order.
        source: What to call them in a message.

    Raises:
        InvalidFile: A month's day is not covered exactly once, versions overlap, or windows of one kind of day
            overlap. Nothing is taken.
    """
    by_id: dict[str, list[TariffRow]] = defaultdict(list)
    for row in rows:
        by_id[row.tariff_id].append(row)
    problems: list[Problem] = []
    versions: dict[tuple[str, str], list[tuple[TariffVersion, int | None]]] = defaultdict(list)
    for mine in by_id.values():
        problems += _check_rows(mine)
        always = [row for row in mine if row.day_type == ALL_DAYS]
        places = {(row.region, row.customer_class) for row in mine}
        base_classes = {row.customer_class for row in always}
        spans: dict[tuple[date, date | None], list[TariffRow]] = defaultdict(list)
        for row in always:
            spans[row.valid_from, row.valid_to].append(row)
        if not always:
            problems.append(
                _problem(
                    mine[0],
                    "day_type",
                    f"rows of {mine[0].tariff_id} for all days beside those of special days",
                    f"{mine[0].tariff_id} 除特殊日外还须有 all 行",
                    mine[0].day_type,
                )
            )
        for span in spans.values():
            problems += _check_tiling(span)
            for region, customer_class in places:
                specials = [
                    row
                    for row in mine
                    if row.day_type != ALL_DAYS and row.customer_class in base_classes | {customer_class}
                ]
                versions[region, customer_class].append((_version(span, specials), span[0].line))
    for (region, customer_class), found in versions.items():
        problems += _check_overlap(region, customer_class, found)
    if problems:
        raise InvalidFile(source, list(dict.fromkeys(problems)))
    return {
        key: Tariff(*key, tuple(sorted((version for version, _ in found), key=lambda one: one.valid_from)))
        for key, found in versions.items()
    }


def is_trusted(confidence: str) -> bool:
    """Return whether a row's periods and ratios are checked against a source, or a person answers for them."""
    return not any(
        grade.startswith("memory") for parts, grade in _grades(confidence) if not parts or {"periods", "ratios"} & parts
    )


def clock(minute: int) -> str:
    """Return a minute of the day as tariffs print it; 1440 is ``24:00``."""
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _version(always: Sequence[TariffRow], specials: Sequence[TariffRow]) -> TariffVersion:
    head = always[0]
    months = sorted({month for row in always for month in row.months})
    return TariffVersion(
        tariff_id=head.tariff_id,
        valid_from=head.valid_from,
        valid_to=head.valid_to,
        ratio_base=head.ratio_base,
        source=head.source,
        confidence=head.confidence,
        months={
            month: tuple(
                sorted((_window(row) for row in always if month in row.months), key=lambda window: window.start_min)
            )
            for month in months
        },
        specials=tuple(
            Special(row.day_type, row.valid_from, row.valid_to, row.months, _window(row), row.source)
            for row in specials
        ),
    )


def _check_rows(rows: Sequence[TariffRow]) -> list[Problem]:
    """Return what is wrong with single rows of one tariff, and between its special windows."""
    problems = []
    head = rows[0]
    for row in rows:
        if row.region != head.region:
            expected = f"{head.region} as in the other rows of {row.tariff_id}"
            problems.append(
                _problem(row, "region", expected, f"与 {row.tariff_id} 其他行相同的 {head.region}", row.region)
            )
        if not 0 <= row.start_min < row.end_min <= DAY_MIN:
            problems.append(
                _problem(
                    row,
                    "start, end",
                    "a start before the end, within 00:00 to 24:00; a window over midnight is two rows",
                    "开始早于结束,且在 00:00 至 24:00 之内;跨零点的时段请分两行",
                    f"{clock(row.start_min)}-{clock(row.end_min)}",
                )
            )
        if not row.months or not row.months <= frozenset(range(1, 13)):
            problems.append(_problem(row, "months", "months 1 to 12", "1 至 12 月", sorted(row.months)))
        if row.ratio < 0:
            problems.append(_problem(row, "price_ratio", "a ratio of 0 or more", "不小于 0 的比价", row.ratio))
        if row.valid_to is not None and row.valid_to < row.valid_from:
            expected = f"{row.valid_from} or a later day"
            problems.append(_problem(row, "valid_to", expected, f"不早于 {row.valid_from} 的日期", row.valid_to))
    special = [row for row in rows if row.day_type != ALL_DAYS]
    for index, one in enumerate(special):
        for other in special[index + 1 :]:
            if _collide(one, other):
                problems.append(
                    _problem(
                        other,
                        "start, end",
                        f"no overlap with the other {one.day_type} window {clock(one.start_min)}-{clock(one.end_min)}",
                        f"与另一 {one.day_type} 时段 {clock(one.start_min)}-{clock(one.end_min)} 不重叠",
                        f"{clock(other.start_min)}-{clock(other.end_min)}",
                    )
                )
    return problems


def _collide(one: TariffRow, other: TariffRow) -> bool:
    """Return whether two special windows claim the same minutes of the same days for the same customers."""
    return (
        (one.day_type, one.customer_class) == (other.day_type, other.customer_class)
        and bool(one.months & other.months)
        and one.start_min < other.end_min
        and other.start_min < one.end_min
        and one.valid_from <= (other.valid_to or date.max)
        and other.valid_from <= (one.valid_to or date.max)
    )


def _check_tiling(rows: Sequence[TariffRow]) -> list[Problem]:
    """Return what keeps the windows of one version from covering each month's day exactly once."""
    problems = []
    head = rows[0]
    for row in rows:
        if (row.customer_class, row.ratio_base) != (head.customer_class, head.ratio_base):
            expected = f"{head.customer_class}, {head.ratio_base}"
            problems.append(
                _problem(
                    row,
                    "customer_class, ratio_base",
                    f"{expected} as in the other rows of {row.tariff_id}",
                    f"与 {row.tariff_id} 其他行相同的 {expected}",
                    f"{row.customer_class}, {row.ratio_base}",
                )
            )
    for month in sorted(_months_between(head.valid_from, head.valid_to)):
        inside = sorted((row for row in rows if month in row.months), key=lambda row: (row.start_min, row.end_min))
        edges = [(0, 0), *((row.start_min, row.end_min) for row in inside), (DAY_MIN, DAY_MIN)]
        for (_, end), (start, _) in pairwise(edges):
            if start == end:
                continue
            span = f"{clock(min(start, end))}-{clock(max(start, end))}"
            problems.append(
                _problem(
                    head,
                    f"{head.tariff_id}, month {month}",
                    f"each of the 24 hours in exactly one band, {span} too",
                    f"24 小时中每一时刻恰属一个时段,包括 {span}",
                    "no band" if start > end else "more than one band",
                )
            )
    return problems


def _check_overlap(
    region: str, customer_class: str, found: Sequence[tuple[TariffVersion, int | None]]
) -> list[Problem]:
    problems = []
    ordered = sorted(found, key=lambda one: (one[0].valid_from, one[0].valid_to or date.max))
    for (before, _), (after, line) in pairwise(ordered):
        if before.valid_to is None or before.valid_to >= after.valid_from:
            problems.append(
                Problem(
                    line=line,
                    field="valid_from",
                    expected=(
                        f"a day after the end of {before.tariff_id} ({before.valid_to or 'open'}), "
                        f"which {region} {customer_class} pays by from {before.valid_from}: versions may not overlap"
                    ),
                    expected_zh=(
                        f"晚于 {before.tariff_id} 的截止日({before.valid_to or '未定'}):{region} {customer_class} "
                        f"自 {before.valid_from} 起执行该电价,版本不得重叠"
                    ),
                    found=f"{after.tariff_id} from {after.valid_from}",
                )
            )
    return problems


def _problem(row: TariffRow, name: str, expected: str, expected_zh: str, found: object) -> Problem:
    return Problem(line=row.line, field=name, expected=expected, expected_zh=expected_zh, found=str(found))


def _window(row: TariffRow) -> Window:
    return Window(row.start_min, row.end_min, row.band, row.ratio)


def _within(day: date, first: date, last: date | None) -> bool:
    return first <= day and (last is None or day <= last)


def _months_between(first: date, last: date | None) -> frozenset[int]:
    """Return the months of the year that a span of days touches."""
    begin = first.year * 12 + first.month - 1
    end = begin + 11 if last is None else last.year * 12 + last.month - 1
    return frozenset(number % 12 + 1 for number in range(begin, min(end, begin + 11) + 1))


def _grades(confidence: str) -> list[tuple[frozenset[str], str]]:
    """Read ``periods+ratios:verified-1src; valid_from:memory``; without names it is said of the whole row."""
    found = []
    for part in confidence.split(";"):
        names, _, grade = part.strip().rpartition(":")
        found.append((frozenset(names.split("+")) if names else frozenset(), grade))
    return found
