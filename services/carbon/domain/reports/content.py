"""What a report says, whatever file it becomes: sections of tables whose every figure says how much of it is known.

A figure names its reason by a key; the reason stands once in the report, with the formula, the source and the path of
the API under which it is told down to the registers. Texts are in both languages, so one filed content becomes the
Chinese and the English file. ``None`` is unknown and is printed as such, never as zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Text:
    """A text in both languages."""

    en: str
    zh: str


class Language(StrEnum):
    """What a file is written in."""

    ENGLISH = "en"
    CHINESE = "zh"

    def of(self, text: Text) -> str:
        """Return a text in this language."""
        return text.zh if self is Language.CHINESE else text.en


class ReportKind(StrEnum):
    """What a report is about."""

    ENERGY_DAILY = "energy_daily"
    ENERGY_WEEKLY = "energy_weekly"
    ENERGY_MONTHLY = "energy_monthly"
    ENERGY_YEARLY = "energy_yearly"
    INVENTORY = "inventory"
    SAVINGS = "savings"
    CONTRACT_STATEMENT = "contract_statement"

    @property
    def is_energy(self) -> bool:
        """Whether it is of the energy of a node in a civil period."""
        return self.value.startswith("energy_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A figure in a table."""

    value: float | None
    """In the unit of its column or row; None is unknown."""
    completeness: float | None
    """How much of what it is made of is known, 0 to 1; None where nothing can be missing or that is not known."""
    why: str
    """Key of its reason."""
    marks: tuple[str, ...] = ()
    """What a reader has to know before relying on it: keys of ``MARKS``."""
    trace: str = ""
    """Under which the API answers why it is just this: ``/api/v1/energy/trace?…``, step by step down to the registers.
    Empty where only its reason's path tells it, in full and beside others."""


Cell = Quantity | Text | str | int | None
"""A figure, a text in both languages, a name or a time as text, a count, or nothing."""


class ColumnKind(StrEnum):
    """What the cells of a column are."""

    TEXT = "text"
    """``Text`` or a name."""
    DAY = "day"
    """A civil day, ``2026-03-01``."""
    TIME = "time"
    """An instant, RFC 3339 with offset."""
    COUNT = "count"
    FIGURE = "figure"
    """``Quantity``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table."""

    key: str
    """Its name in the files for programs: ``energy_kwh``."""
    title: Text
    kind: ColumnKind = ColumnKind.TEXT
    unit: str = ""
    """As it is printed; empty where each row has its own or there is none."""
    digits: int = 2
    """Decimals when it is printed; the files for programs keep all."""
    percent: bool = False
    """A share, printed in per cent."""


class ChartKind(StrEnum):
    """How a table is drawn."""

    BAR = "bar"
    LINE = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing of columns of its table."""

    kind: ChartKind
    title: Text
    along: str
    """Key of the column that the rows are named by."""
    series: tuple[str, ...]
    """Keys of figure columns of one unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells."""

    key: str
    """Its name in the files for programs; of one report no other table has it."""
    title: Text
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chart: Chart | None = None

    def __post_init__(self) -> None:
        """Refuse what would be printed in the wrong place.

        Raises:
            ValueError: A row has not a cell for each column or one of another kind, two columns have one key, or the
                chart names a column that is not there.
        """
        keys = [one.key for one in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError(f"table {self.key}: a column is there twice: {keys}")
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.key}: row {number} has {len(row)} cells, not {len(self.columns)}")
            for column, cell in zip(self.columns, row, strict=True):
                if cell is not None and not isinstance(cell, _CELLS[column.kind]):
                    raise ValueError(f"table {self.key}: row {number}: {column.key} cannot be {cell!r}")
        if self.chart is not None:
            missing = {self.chart.along, *self.chart.series} - set(keys)
            if missing:
                raise ValueError(f"table {self.key}: the chart names {sorted(missing)}, which is not there")

    def place(self, key: str) -> int:
        """Return the place of a column."""
        return next(place for place, one in enumerate(self.columns) if one.key == key)

    def figures(self) -> Iterator[tuple[tuple[Cell, ...], Column, Quantity]]:
        """Yield every figure with its row and column, in order."""
        for row in self.rows:
            for column, cell in zip(self.columns, row, strict=True):
                if isinstance(cell, Quantity):
                    yield row, column, cell


_CELLS: dict[ColumnKind, tuple[type, ...]] = {
    ColumnKind.TEXT: (Text, str),
    ColumnKind.DAY: (str,),
    ColumnKind.TIME: (str,),
    ColumnKind.COUNT: (int,),
    ColumnKind.FIGURE: (Quantity,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A chapter."""

    key: str
    title: Text
    paragraphs: tuple[Text, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why figures are what they are."""

    key: str
    formula: Text
    source: str
    """Standard or method with its clause."""
    path: str
    """Under which the API tells it in full, down to the registers: ``/api/v1/energy?…``; empty where it does not."""
    origins: tuple[str, ...] = ()
    """What went in: ``factor CN-2022 r1 0.5366 kgCO2/kWh``, ``bill 2026-03``."""


HEADLINES = frozenset({"summary", "totals", "saving"})
"""Keys of the tables whose figures a report is read for; others stand beside them, such as last year's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished content, as it is filed."""

    kind: ReportKind
    title: Text
    subject: Text
    """What it is about: a node, an inventory, a contract."""
    start: datetime
    end: datetime
    """Not included."""
    known_on: date
    """As of which day factors were chosen."""
    made_at: datetime
    software: str
    question: str
    """What was asked for, as canonical JSON: with it a reader can compute the report again."""
    sections: tuple[Section, ...]
    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        """Refuse a figure without its reason.

        Raises:
            ValueError: A reason or table has the key of another, or a figure names a reason that is not there.
        """
        keys = [one.key for one in self.reasons]
        tables = [one.key for one in self.tables]
        for found in (keys, tables):
            if len(set(found)) < len(found):
                raise ValueError(f"a key is there twice: {sorted(found)}")
        unknown = {one.why for one in self.quantities()} - set(keys)
        if unknown:
            raise ValueError(f"figures without reason: {sorted(unknown)}")

    @property
    def tables(self) -> Sequence[Table]:
        """Every table, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def completeness(self) -> float | None:
        """The least of its headline figures, 0 to 1; None where none of them can be incomplete."""
        figures = [one for table in self.tables if table.key in HEADLINES for _, _, one in table.figures()]
        return min((one.completeness for one in figures if one.completeness is not None), default=None)

    def quantities(self) -> Iterator[Quantity]:
        """Yield every figure, in order."""
        for table in self.tables:
            yield from (one for _, _, one in table.figures())
