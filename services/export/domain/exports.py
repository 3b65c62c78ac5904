"""Files that are made again and again for somebody outside: of what, of which period, how called, and when due.

A run is one due time with the whole civil period that was over then. Which runs there have to be follows from the plan
and the clock alone, so that those that were missed are found again, in their order. Each period is that of exactly one
rhythm: a rule that is due less often than a period is long would leave periods out, so it is refused.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.recurrence import FIRST_YEAR, LAST_YEAR, Schedule

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
FOLDER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._=-]{0,79}(/[A-Za-z0-9][A-Za-z0-9._=-]{0,79}){0,7}|)")
NAME_FIELDS = ("export", "start", "end", "due")
SUBJECTS_MAX = 20_000
"""Sites, circuits or devices of one export; empty is all where the data allow it."""
DELAY_MAX_S = 86_400.0
MAKE_UP_MAX_S = 366 * 86_400.0

Value = str | int | float | bool | date | datetime | None
Row = Mapping[str, Value]
"""A row of a file, by the keys of its columns; missing is None or absent."""


class Dataset(StrEnum):
    """What stands in the files."""

    ENERGY = "energy"
    """Energy of sites or circuits by step, as carbon has accounted for it."""
    READINGS = "readings"
    """What devices reported, a row per report and point."""
    ALARMS = "alarms"
    """Alarms that began in the period."""
    STANDARD = "standard"
    """One of tables 1 to 6 of the data-access standard."""
    REPORTS = "reports"
    """Reports of carbon's that were finished within the period, each a file as it was filed."""


class FileForm(StrEnum):
    """What the file is."""

    CSV = "csv"
    EXCEL = "xlsx"
    PARQUET = "parquet"
    XML = "xml"
    PDF = "pdf"
    """Of reports only."""


class Span(StrEnum):
    """How long a period is."""

    QUARTER_HOUR = "15m"
    HOUR = "1h"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def length(self) -> timedelta | None:
        """Of the spans that are counted in minutes; None of civil ones."""
        return {"15m": timedelta(minutes=15), "1h": timedelta(hours=1)}.get(self.value)


FREQUENCIES = {Span.DAY: "DAILY", Span.WEEK: "WEEKLY", Span.MONTH: "MONTHLY", Span.YEAR: "YEARLY"}
"""Of the rule that a civil span goes with."""


class Step(StrEnum):
    """How finely energy is told, as carbon names it."""

    QUARTER_HOUR = "quarter_hour"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


class DestinationKind(StrEnum):
    """How files are brought."""

    FTP = "ftp"
    FTPS = "ftps"
    SFTP = "sftp"
    S3 = "s3"


class RunState(StrEnum):
    """How far a run is."""

    DUE = "due"
    """Its files are to be made, or being made."""
    MADE = "made"
    """They lie here and are on their way."""
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self in (RunState.DUE, RunState.MADE)


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open span of time."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where files go; the account is stored apart, encrypted."""

    url: str
    """``ftp://``, ``ftps://`` (implicit TLS), ``sftp://host:port/folder``; of S3 the endpoint, ``https://host:port``."""
    kind: DestinationKind
    host_key: str | None = None
    """Of an SFTP server: ``ssh-ed25519 AAAA…``."""
    trust: str | None = None
    """PEM of the authority that its certificate is checked against, of FTPS and S3; None: the machine's."""
    bucket: str | None = None
    prefix: str = ""
    """Of S3: what the names of objects begin with."""
    region: str = "us-east-1"
    timeout_s: float = 300.0
    """For one file. [s]"""
    retry_first_s: float = 30.0
    retry_cap_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is made and brought again and again."""

    export_id: str
    version: int
    name: str
    dataset: Dataset
    form: FileForm
    span: Span
    file_name: str
    """With ``{export}``, ``{start:%Y%m%d}``, ``{end:…}`` and ``{due:…}`` in it, without the extension."""
    destination: Destination
    since: date
    """The first civil day that counts."""
    zone: str = str(CIVIL_ZONE)
    """IANA name of the civil time of periods, due times and names."""
    rule: str | None = None
    """Recurrence of a civil span; None for 15m and 1h, which are due after each period."""
    delay_s: float = 120.0
    """Of 15m and 1h: how long after the period, since the last readings are on their way. [s]"""
    make_up_s: float = 31 * 86_400.0
    """Runs that were missed are made up so far back; what is older is given up, and said so. [s]"""
    sites: tuple[str, ...] = ()
    circuits: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    """Of readings; empty is all."""
    step: Step = Step.HOUR
    """Of energy."""
    table: int | None = None
    """Of the standard: 1 to 6."""
    reports: tuple[str, ...] = ()
    """Ids of definitions; empty is all."""
    language: str = "zh"
    """Of reports."""
    folder: str = ""
    """Below the destination's folder or prefix."""
    enabled: bool = True

    @property
    def zone_info(self) -> ZoneInfo:
        """The civil time."""
        return ZoneInfo(self.zone)

    @property
    def schedule(self) -> Schedule | None:
        """When a civil span is due."""
        return None if self.rule is None else Schedule(self.rule, self.since, self.zone_info)

    def document(self) -> dict[str, Any]:
        """Return what is stored and shown: JSON without id and version."""
        plain = asdict(self)
        for name in ("export_id", "version"):
            del plain[name]
        return {**plain, "since": self.since.isoformat(), **{name: list(plain[name]) for name in _LISTS}}


_LISTS = ("sites", "circuits", "devices", "points", "reports")


def plan_of(export_id: str, version: int, document: Mapping[str, Any]) -> ExportPlan:
    """Read what ``document`` has written."""
    raw = dict(document)
    target = dict(raw.pop("destination"))
    destination = Destination(**{**target, "kind": DestinationKind(target["kind"])})
    lists: dict[str, Any] = {name: tuple(raw.pop(name, ())) for name in _LISTS}
    return ExportPlan(
        export_id=export_id,
        version=version,
        dataset=Dataset(raw.pop("dataset")),
        form=FileForm(raw.pop("form")),
        span=Span(raw.pop("span")),
        step=Step(raw.pop("step")),
        since=date.fromisoformat(raw.pop("since")),
        destination=destination,
        **lists,
        **raw,
    )


def problems_of(plan: ExportPlan) -> list[str]:
    """Return what is wrong with a plan, in words; empty when it can be used."""
    found = []
    if not ID.fullmatch(plan.export_id):
        found.append(f"id: expected small letters, digits and hyphens, at most 48, found {plan.export_id!r}")
    try:
        ZoneInfo(plan.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return [*found, f"zone: expected an IANA name such as Asia/Shanghai, found {plan.zone!r}"]
    found += _rhythm_problems(plan)
    found += _subject_problems(plan)
    if not FOLDER.fullmatch(plan.folder):
        found.append(f"folder: expected up to eight plain names joined by /, found {plan.folder!r}")
    if not 0 < plan.destination.retry_first_s <= plan.destination.retry_cap_s:
        found.append("destination.retry_cap_s: expected no less than retry_first_s")
    if not found:
        found += _name_problems(plan)
    return found


def _rhythm_problems(plan: ExportPlan) -> list[str]:
    if not 0 <= plan.delay_s <= DELAY_MAX_S or not 0 <= plan.make_up_s <= MAKE_UP_MAX_S:
        return [f"delay_s, make_up_s: expected 0 to {DELAY_MAX_S:.0f} and 0 to {MAKE_UP_MAX_S:.0f}"]
    if not FIRST_YEAR <= plan.since.year <= LAST_YEAR:
        return [f"since: expected a day from {FIRST_YEAR} to {LAST_YEAR}, found {plan.since.isoformat()}"]
    if plan.span.length is not None:
        return [] if plan.rule is None else [f"rule: none with {plan.span}, which is due after each period"]
    wanted = FREQUENCIES[plan.span]
    if plan.rule is None:
        return [f"rule: expected a recurrence with FREQ={wanted} for periods of a {plan.span}"]
    try:
        schedule = Schedule(plan.rule, plan.since, ZoneInfo(plan.zone))
    except InvalidInput as exc:
        return [f"rule: {exc.message}"]
    if schedule.frequency != wanted or schedule.interval != 1:
        return [f"rule: expected FREQ={wanted} without INTERVAL, so that no {plan.span} is left out"]
    return []


TABLE_SPANS: Mapping[int, frozenset[Span]] = {
    1: frozenset({Span.MONTH}),
    2: frozenset({Span.QUARTER_HOUR, Span.HOUR, Span.DAY, Span.MONTH}),
    3: frozenset({Span.MONTH}),
    4: frozenset({Span.MONTH, Span.YEAR}),
    5: frozenset({Span.QUARTER_HOUR, Span.HOUR}),
    6: frozenset({Span.DAY}),
}
"""How long the periods of files of the standard are: as its tables say that their items are updated."""
_SUBJECTS: Mapping[Dataset, frozenset[str]] = {
    Dataset.ENERGY: frozenset({"sites", "circuits"}),
    Dataset.READINGS: frozenset({"sites", "devices", "points"}),
    Dataset.ALARMS: frozenset({"sites"}),
    Dataset.STANDARD: frozenset({"sites"}),
    Dataset.REPORTS: frozenset({"reports"}),
}
REPORT_FORMS = frozenset({FileForm.EXCEL, FileForm.PDF})
"""What carbon files reports as."""


def _subject_problems(plan: ExportPlan) -> list[str]:
    found = []
    for name in _LISTS:
        values: tuple[str, ...] = getattr(plan, name)
        if values and name not in _SUBJECTS[plan.dataset]:
            found.append(f"{name}: {plan.dataset} is chosen by {', '.join(sorted(_SUBJECTS[plan.dataset]))}")
        if len(values) > SUBJECTS_MAX:
            found.append(f"{name}: at most {SUBJECTS_MAX}, found {len(values)}")
        if len(set(values)) != len(values):
            found.append(f"{name}: each once")
    if plan.dataset is Dataset.REPORTS and plan.form not in REPORT_FORMS:
        found.append(f"form: reports are {', '.join(sorted(REPORT_FORMS))}, found {plan.form}")
    if plan.dataset is not Dataset.REPORTS and plan.form is FileForm.PDF:
        found.append("form: pdf is of reports only")
    if (plan.dataset is Dataset.STANDARD) != (plan.table is not None):
        found.append("table: 1 to 6 with the dataset standard, none with others")
    if plan.table is not None:
        spans = TABLE_SPANS.get(plan.table)
        if spans is None:
            found.append(f"table: expected 1 to 6, found {plan.table}")
        elif plan.span not in spans:
            found.append(f"span: table {plan.table} is told by {', '.join(sorted(spans))}, found {plan.span}")
    return found


def _name_problems(plan: ExportPlan) -> list[str]:
    """Try the name on due times that follow each other: two runs must not overwrite each other by chance."""
    at = datetime.combine(max(plan.since, date(2026, 1, 1)), time(), plan.zone_info)
    try:
        first, second = _first_two(plan, at)
        names = [file_name(plan, due) for due in (first, second)]
    except (ValueError, InvalidInput) as exc:
        return [f"file_name: {exc}"]
    if names[0] == names[1] and period_of(plan, first) != period_of(plan, second):
        return ["file_name: expected start, end or due in it, precise enough to tell two runs apart"]
    return []


def _first_two(plan: ExportPlan, at: datetime) -> tuple[datetime, datetime]:
    dues: Iterator[datetime] = _dues(plan, at)
    first = second = next(dues)
    while period_of(plan, second) == period_of(plan, first):
        second = next(dues)
    return first, second


def _dues(plan: ExportPlan, at: datetime) -> Iterator[datetime]:
    while True:
        at = next_due(plan, at)
        yield at


def next_due(plan: ExportPlan, after: datetime) -> datetime:
    """Return the first time after another one at which a run is due. UTC: a civil hour may come twice"""
    schedule = plan.schedule
    if schedule is not None:
        return schedule.next_after(after).astimezone(UTC)
    length = _length(plan)
    first = datetime.combine(plan.since, time(), plan.zone_info).astimezone(UTC) + length
    delay = timedelta(seconds=plan.delay_s)
    return max(_floor(after - delay, length, plan.zone_info) + length, first) + delay


def period_of(plan: ExportPlan, due: datetime) -> Period:
    """Return the last whole period that is over when a run is due. UTC"""
    delay_s = 0.0 if plan.span.length is None else plan.delay_s
    return last_over(plan.span, due - timedelta(seconds=delay_s), plan.zone_info)


def last_over(span: Span, at: datetime, zone: tzinfo = CIVIL_ZONE) -> Period:
    """Return the last whole period of a length that is over at a time. UTC"""
    if span.length is not None:
        end = _floor(at, span.length, zone)
        return Period(end - span.length, end)
    first, after = _civil_before(span, at.astimezone(zone).date())
    start, end = (datetime.combine(day, time(), zone).astimezone(UTC) for day in (first, after))
    return Period(start, end)


def _length(plan: ExportPlan) -> timedelta:
    length = plan.span.length
    if length is None:
        raise ValueError(f"a {plan.span} has no fixed length")
    return length


def _floor(at: datetime, length: timedelta, zone: tzinfo) -> datetime:
    """Return the start of the quarter or hour of the civil clock that a time lies in. UTC"""
    local = at.astimezone(zone)
    minutes = int(length.total_seconds()) // 60
    passed = timedelta(minutes=local.minute % minutes, seconds=local.second, microseconds=local.microsecond)
    return at.astimezone(UTC) - passed


def _civil_before(span: Span, day: date) -> tuple[date, date]:
    """Return first day and day after the last of the civil period before the one that a day lies in."""
    match span:
        case Span.DAY:
            return day - timedelta(days=1), day
        case Span.WEEK:
            monday = day - timedelta(days=day.weekday())
            return monday - timedelta(days=7), monday
        case Span.MONTH:
            first = day.replace(day=1)
            return (first - timedelta(days=1)).replace(day=1), first
        case Span.YEAR:
            return date(day.year - 1, 1, 1), date(day.year, 1, 1)
        case Span.QUARTER_HOUR | Span.HOUR:
            raise ValueError(f"{span} is no civil period")


@dataclass(frozen=True, slots=True)
class Missed:
    """Runs that fell due before what is made up."""

    first_due: datetime
    last_due: datetime
    count: int
    """No more are counted than ``MISSED_COUNTED``."""


@dataclass(frozen=True, slots=True)
class Dues:
    """What has fallen due."""

    runs: tuple[datetime, ...]
    """In order."""
    missed: Missed | None
    next_due: datetime
    """The first that is not among them; not later than now when there were more than were asked for."""


MISSED_COUNTED = 100_000


def dues_until(plan: ExportPlan, first: datetime, now: datetime, *, most: int) -> Dues:
    """Return the runs that are due from one that is known until now, those of a downtime too.

    Args:
        plan: Whose.
        first: The first that there is no run of yet.
        now: When.
        most: No more at a time.
    """
    oldest = now - timedelta(seconds=plan.make_up_s)
    due, missed = first, None
    if due < oldest and next_due(plan, due) <= now:  # the youngest is always made
        due, missed = _skip(plan, first, oldest, now)
    runs: list[datetime] = []
    while due <= now and len(runs) < most:
        runs.append(due)
        due = next_due(plan, due)
    return Dues(tuple(runs), missed, due)


def _skip(plan: ExportPlan, first: datetime, oldest: datetime, now: datetime) -> tuple[datetime, Missed]:
    last, due, count = first, first, 0
    while due < oldest and count < MISSED_COUNTED:
        following = next_due(plan, due)
        if following > now:
            break
        last, due, count = due, following, count + 1
    if count == MISSED_COUNTED:
        due = next_due(plan, oldest)
    return due, Missed(first, last, count)


def file_name(plan: ExportPlan, due: datetime) -> str:
    """Return what a run's file is called, with its extension.

    Raises:
        ValueError: The template names something unknown, or the name is no plain file name.
    """
    zone, period = plan.zone_info, period_of(plan, due)
    values: dict[str, str | datetime] = {
        "export": plan.export_id,
        "start": period.start.astimezone(zone),
        "end": period.end.astimezone(zone),
        "due": due.astimezone(zone),
    }
    parts = []
    for text, name, wanted, conversion in string.Formatter().parse(plan.file_name):
        parts.append(text)
        if name is None:
            continue
        if name not in NAME_FIELDS or conversion is not None:
            raise ValueError(f"{{{name}}} is none of {', '.join(NAME_FIELDS)}")
        value = values[name]
        parts.append(value.strftime(wanted or "%Y%m%dT%H%M") if isinstance(value, datetime) else value)
    found = f"{''.join(parts)}.{plan.form}"
    if not FILE_NAME.fullmatch(found):
        raise ValueError(f"{found!r} is no plain file name of at most 120 characters")
    return found


class ColumnKind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    COUNT = "count"
    TIME = "time"
    DAY = "day"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a file."""

    key: str
    kind: ColumnKind
    unit: str | None = None
    name_zh: str | None = None


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file of a run as it lies here."""

    name: str
    rows: int
    size_bytes: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """Return it as the manifest and the database have it."""
        return {"name": self.name, "rows": self.rows, "bytes": self.size_bytes, "sha256": self.sha256}

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "MadeFile":
        """Read what ``as_json`` has written."""
        return cls(raw["name"], raw["rows"], raw["bytes"], raw["sha256"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One due time of an export and what came of it."""

    id: int
    export_id: str
    due_at: datetime
    start: datetime
    end: datetime
    state: RunState
    version: int | None = None
    """Of the plan that its files were made by."""
    job_id: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    made_at: datetime | None = None
    finished_at: datetime | None = None
    files: tuple[MadeFile, ...] = field(default=())
    """The manifest is the last."""
    error: str | None = None


MANIFEST_SUFFIX = ".manifest.json"


def manifest_name(first_file: str) -> str:
    """Return what the manifest beside a run's first file is called."""
    return first_file + MANIFEST_SUFFIX


def manifest(
    plan: ExportPlan,
    run: Run,
    files: list[MadeFile],
    columns: list[Column],
    made_at: datetime,
    left_out: Sequence[str] = (),
) -> Any:
    """Return what a manifest says: whoever sees it knows that all files are there and whole."""
    return {
        "format": "wattring-export-manifest",
        "version": 1,
        "export": plan.export_id,
        "plan_version": plan.version,
        "dataset": plan.dataset.value,
        **({} if plan.table is None else {"table": plan.table}),
        "zone": plan.zone,
        "period": {"start": _utc(run.start), "end": _utc(run.end)},
        "due_at": _utc(run.due_at),
        "made_at": _utc(made_at),
        "columns": [{name: value for name, value in asdict(column).items() if value is not None} for column in columns],
        "files": [file.as_json() for file in files],
        **({"left_out": list(left_out)} if left_out else {}),
    }


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def wait_s(destination: Destination, attempts: int, spread: float) -> float:
    """Return how long is waited after so many failures: doubling up to the cap, up to a third less. [s]

    Args:
        destination: Where the file goes.
        attempts: So many have failed, from 1.
        spread: 0 to 1, at random.
    """
    whole = min(destination.retry_first_s * 2.0 ** min(attempts - 1, 30), destination.retry_cap_s)
    return whole * (1 - spread / 3)
