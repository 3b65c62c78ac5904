"""Rows of the tables of device events and of energy rules: as shipped, as people write them, as they are stored.

What is shipped is data of this package; what people add or change is stored beside it and wins. So a new release brings
new rows without touching anybody's own.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from libs.common.contracts.base import Amount, Count, Flag, JsonObject
from libs.common.contracts.registry import CircuitRole, LoadKind
from libs.common.errors import InvalidFile, Problem, WrongValue
from services.alarm.domain.energy import UNITS, WINDOWED, Check, EnergyRule, EnergyScope
from services.alarm.domain.model import Need
from services.alarm.domain.occurrences import MAX_PATTERN, MAX_STARS, EventRule, Meaning, pattern_fault

RULE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
TIME_OF_DAY = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"


def _pattern(text: str) -> str:
    if pattern_fault(text) is not None:
        raise WrongValue(
            f"1 to {MAX_PATTERN} characters with at most {MAX_STARS} single stars",
            f"1 至 {MAX_PATTERN} 个字符,最多 {MAX_STARS} 个不相连的星号",
        )
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


def _repeatable(schema: dict[str, Any]) -> None:
    """Describe a set as it is taken: what is named twice counts once."""
    schema.pop("uniqueItems", None)


class EventRow(BaseModel):
    """Which signal an event of devices is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profiles: tuple[Pattern, ...] = Field(
        min_length=1, max_length=50, description="names of device profiles; * stands for anything"
    )
    code: Pattern = Field(description="the device's own code; what * stands for tells occurrences apart")
    meaning: Meaning = Field(default=Meaning.AS_SENT, description="ignore: it is no alarm")
    signal: str | None = Field(default=None, max_length=100, description="code of the signal table")
    occurrence: str | None = Field(
        default=None, pattern=RULE_ID, description="rows of the same one begin and end the same alarm; null: its own"
    )
    level: Annotated[Count, Field(ge=1, le=4)] | None = Field(
        default=None, description="null: the signal's for the class of the site, else the device's own"
    )
    needs: frozenset[Need] = Field(
        default=frozenset(),
        description="where one of these is lacking, that explains it",
        json_schema_extra=_repeatable,
    )
    takes: Need | None = Field(default=None, description="what its alarm says that the device lacks")
    enabled: Flag = True
    note: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _names_a_signal(self) -> Self:
        if (self.signal is None) != (self.meaning is Meaning.IGNORE):
            raise WrongValue("a signal, or the meaning ignore", "信号编码,或 meaning 为 ignore")
        return self

    def rule(self, rule_id: str, version: int) -> EventRule:
        """Return the row in the words of the domain."""
        return EventRule(
            rule_id=rule_id,
            profiles=self.profiles,
            code=self.code,
            meaning=self.meaning,
            signal=self.signal,
            occurrence=self.occurrence or rule_id,
            level=self.level,
            needs=self.needs,
            takes=self.takes,
            enabled=self.enabled,
            version=version,
        )


class EnergyRow(BaseModel):
    """What should have been used, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    check: Check
    signal: str = Field(max_length=100, description="code of the signal table")
    threshold: Amount | None = Field(
        default=None, ge=0, description="kW, m3/h of a night's flow, or % of a balance; null: asleep"
    )
    roles: frozenset[CircuitRole] = Field(
        default=frozenset(), description="of circuits; empty: all", json_schema_extra=_repeatable
    )
    loads: frozenset[LoadKind] = Field(
        default=frozenset(), description="kinds of loads on the circuit; empty: any", json_schema_extra=_repeatable
    )
    window_from: str | None = Field(default=None, pattern=TIME_OF_DAY, description="local time, for standby and nights")
    window_to: str | None = Field(default=None, pattern=TIME_OF_DAY, description="not included; may be past midnight")
    intervals: Count = Field(default=1, ge=1, le=96, description="so many intervals, nights or days in a row")
    level: Annotated[Count, Field(ge=1, le=4)] | None = Field(default=None, description="null: the signal's")
    enabled: Flag = True
    note: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _has_its_window(self) -> Self:
        given = (self.window_from is not None, self.window_to is not None)
        empty = self.window_from is not None and self.window_from == self.window_to
        if given != (self.check in WINDOWED,) * 2 or empty:
            raise WrongValue(
                f"two different times of day for {', '.join(sorted(WINDOWED))}, else none",
                f"{'、'.join(sorted(WINDOWED))} 须给出不同的起止时刻,其他类型不填",
            )
        return self

    @property
    def unit(self) -> str:
        """Of the threshold."""
        return UNITS[self.check]

    def rule(self, rule_id: str, version: int, scope: EnergyScope, scope_id: str) -> EnergyRule:
        """Return the row in the words of the domain."""
        window = None
        if self.window_from is not None and self.window_to is not None:
            window = (_minute(self.window_from), _minute(self.window_to))
        return EnergyRule(
            rule_id=rule_id,
            signal=self.signal,
            check=self.check,
            threshold=self.threshold,
            scope=scope,
            scope_id=scope_id,
            roles=frozenset(role.value for role in self.roles),
            loads=frozenset(kind.value for kind in self.loads),
            window=window,
            intervals=self.intervals,
            level=self.level,
            enabled=self.enabled,
            version=version,
        )


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


Row = EventRow | EnergyRow
R = TypeVar("R", EventRow, EnergyRow)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: a rule, and how far it reaches. Rows of device events reach everything."""

    rule_id: str
    scope: EnergyScope = EnergyScope.ALL
    scope_id: str = ""


@dataclass(frozen=True, slots=True)
class Kept(Generic[R]):
    """A row as it stands."""

    place: Place
    row: R
    version: int
    """Of the rules as a whole, when it was last changed; 0 as shipped."""
    changed_by: str | None
    """None: as shipped."""


@dataclass(frozen=True, slots=True)
class Table(Generic[R]):
    """A table: where its shipped rows are, and what its rows are."""

    kind: str
    file: str
    model: type[R]
    lists: tuple[str, ...]
    """Columns of the file that hold several words."""

    def shipped(self) -> dict[Place, R]:
        """Return the rows that this release ships.

        Raises:
            InvalidFile: A line is wrong; all wrong places are listed.
        """
        return self.read(files("services.alarm").joinpath("data", self.file).read_text(encoding="utf-8"))

    def read(self, text: str) -> dict[Place, R]:
        """Return the rows of a file.

        Raises:
            InvalidFile: A line is wrong; all wrong places are listed.
        """
        problems: list[Problem] = []
        rows: dict[Place, R] = {}
        reader = csv.DictReader(io.StringIO(text))
        for line in reader:
            cells: dict[str, Any] = {name: value for name, value in line.items() if name is not None and value}
            cells |= {name: cells[name].split() for name in self.lists if name in cells}
            place = Place(str(cells.pop("rule_id", "")))
            if not place.rule_id or place in rows:
                found = place.rule_id
                problems.append(
                    Problem(line=reader.line_num, field="rule_id", expected="an id of its own", found=found)
                )
            try:
                rows[place] = self.model.model_validate(cells)
            except ValidationError as exc:
                problems += _problems(reader.line_num, exc)
        if problems:
            raise InvalidFile(self.file, problems)
        return rows

    def parse(self, definition: JsonObject) -> R:
        """Return a row as it was stored."""
        return self.model.model_validate(definition)


EVENTS = Table("device_event", "events.csv", EventRow, ("profiles", "needs"))
ENERGY = Table("energy", "energy.csv", EnergyRow, ("roles", "loads"))


def definition_of(row: Row) -> JsonObject:
    """Return a row as it is stored."""
    definition: JsonObject = row.model_dump(mode="json", exclude_none=True)
    return definition


def merged(shipped: Mapping[Place, R], stored: Mapping[Place, Kept[R] | None]) -> list[Kept[R]]:
    """Return the rows that hold, in order: the shipped ones, and in their place or beside them those of people.

    Args:
        shipped: As this release has them.
        stored: As people made them; None: somebody has removed the row.
    """
    rows = {place: Kept(place, row, 0, None) for place, row in shipped.items() if place not in stored}
    rows |= {place: kept for place, kept in stored.items() if kept is not None}
    return [rows[place] for place in sorted(rows, key=lambda one: (one.rule_id, one.scope, one.scope_id))]


def _problems(line: int, exc: ValidationError) -> Sequence[Problem]:
    return [
        Problem(
            line=line, field=".".join(map(str, error["loc"])) or "line", expected=error["msg"], found=error["input"]
        )
        for error in exc.errors()
    ]
