"""The signal table as provinces write it: what a heading means, what a row is called, how two versions differ.

The shape is that of the provincial table 《动环监控系统标准信号表》 as the product's brochure prints it: a row for each
signal, the headings in Chinese. Whatever a heading means that is not known here stays with its row as it stands.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal

from libs.common.contracts.base import JsonObject
from services.alarm.domain.model import Signal, SignalKind

MAX_DIFFERENCES = 1000
"""Changed rows that are shown one by one; the counts are those of all."""
PLACE = "#"
"""In a name: the two-digit order number of the circuit (多路表示用“#”两位顺序号)."""


NOT_SETTLED = "0"
"""A level that is none: the province has not settled the numbers of the row."""


class Meaning(StrEnum):
    """What a column says, by the heading that an export has."""

    NAME = "标准信号名称（多路表示用“#”两位顺序号）"
    CATEGORY = "信号类别"
    ALARM = "告警含义"
    NORMAL = "正常含义"
    UNIT = "单位"
    MONITORED = "源监测点/目标监测点"
    DEVICE = "设备类型"
    LEVEL = "告警级别"
    THRESHOLD = "告警门限"
    START = "告警开始延时"
    END = "告警结束延时"
    PERIOD_S = "存储周期(秒)"
    PERIOD_MIN = "存储周期(分钟)"
    ABSOLUTE = "绝对变化量"
    REQUIRED = "必测"
    CODE = "信号编码"
    NAME_EN = "英文名称"
    POINTS = "测点"
    TYPE = "设备类型编码"
    NOTE = "平台说明"


_HEADINGS: Mapping[str, Meaning] = {
    "标准信号名称": Meaning.NAME,
    "信号名称": Meaning.NAME,
    "spname": Meaning.NAME,
    "信号类别": Meaning.CATEGORY,
    "信号类型": Meaning.CATEGORY,
    "告警含义": Meaning.ALARM,
    "告警时值": Meaning.ALARM,
    "alarmmeanings": Meaning.ALARM,
    "正常含义": Meaning.NORMAL,
    "正常时值": Meaning.NORMAL,
    "normalmeanings": Meaning.NORMAL,
    "单位": Meaning.UNIT,
    "unit": Meaning.UNIT,
    "源监测点/目标监测点": Meaning.MONITORED,
    "源监测点": Meaning.MONITORED,
    "监测点": Meaning.MONITORED,
    "设备类型": Meaning.DEVICE,
    "采集方式": Meaning.DEVICE,
    "告警级别": Meaning.LEVEL,
    "alarmlevel": Meaning.LEVEL,
    "告警门限": Meaning.THRESHOLD,
    "告警阈值": Meaning.THRESHOLD,
    "alarmthreshold": Meaning.THRESHOLD,
    "告警开始延时": Meaning.START,
    "告警开始": Meaning.START,
    "startdelay": Meaning.START,
    "告警结束延时": Meaning.END,
    "告警结束": Meaning.END,
    "enddelay": Meaning.END,
    "绝对变化量": Meaning.ABSOLUTE,
    "absoluteval": Meaning.ABSOLUTE,
    "必测": Meaning.REQUIRED,
    "信号编码": Meaning.CODE,
    "spid": Meaning.CODE,
    "英文名称": Meaning.NAME_EN,
    "测点": Meaning.POINTS,
    "设备类型编码": Meaning.TYPE,
    "平台说明": Meaning.NOTE,
}
_PERIODS: Mapping[str, Meaning] = {
    "秒": Meaning.PERIOD_S,
    "s": Meaning.PERIOD_S,
    "分钟": Meaning.PERIOD_MIN,
    "分": Meaning.PERIOD_MIN,
    "min": Meaning.PERIOD_MIN,
}
_OF_CLASS = re.compile(r"(?P<what>告警级别|告警门限|告警阈值)\(?(?P<class>[a-d])类?\)?")
_PERIOD = re.compile(r"存储周期\((?P<unit>[^)]+)\)")

CATEGORIES: Mapping[str, SignalKind] = {
    "遥测": SignalKind.AI,
    "遥信": SignalKind.DI,
    "阈值": SignalKind.DI,
    "遥控": SignalKind.DO,
    "遥调": SignalKind.AO,
    **{kind.value: kind for kind in SignalKind},
}
"""Word of the table to kind; a 阈值 is an alarm that a threshold makes of a measured value."""


_Name = str | tuple[Meaning, str | None]
"""What tells a column from the others whatever its heading is: its meaning, or its key where it has none."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    key: str
    """Names it among the columns of the table: its title, with a number where a title stands twice."""
    title: str
    meaning: Meaning | None = None
    """None: it is kept and not read."""
    station_class: str | None = None
    """Of a level or threshold of one class only."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows above the first signal, and the columns."""

    columns: tuple[Column, ...]
    heads: tuple[tuple[str, ...], ...]
    """Every row from the first to the last of the headings, as they stand; the columns' titles are one of them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of a row, or one of its kept cells, before and after."""

    field: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row that is not as it was."""

    change: Literal["added", "changed", "removed"]
    code: str
    name_zh: str
    fields: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class TableDiff:
    """How a table differs from another."""

    rows: tuple[ChangedRow, ...]
    unchanged: int

    def count(self, change: str) -> int:
        """Return how many rows were added, changed or removed."""
        return sum(row.change == change for row in self.rows)


def columns_of(titles: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns of a row of headings; of two with one meaning the first has it."""
    seen: dict[str, int] = {}
    taken: set[tuple[Meaning, str | None]] = set()
    found: list[Column] = []
    for place, title in enumerate(titles, start=1):
        base = title or f"列{place}"
        seen[base] = seen.get(base, 0) + 1
        key = base if seen[base] == 1 else f"{base}\x1f{seen[base]}"
        meaning = meaning_of(title)
        if meaning in taken:
            meaning = None
        if meaning is not None:
            taken.add(meaning)
        found.append(Column(key, title, *(meaning or (None, None))))
    return tuple(found)


def meaning_of(title: str) -> tuple[Meaning, str | None] | None:
    """Return what a heading means, and for which station class; None when it is not known."""
    text = re.sub(r"\s+", "", unicodedata.normalize("NFKC", title)).lower()
    found = _OF_CLASS.fullmatch(text)
    if found is not None:
        return _HEADINGS[found["what"]], found["class"].upper()
    found = _PERIOD.fullmatch(text)
    if found is not None and found["unit"] in _PERIODS:
        return _PERIODS[found["unit"]], None
    meaning = _HEADINGS.get(text.partition("(")[0])
    return None if meaning is None else (meaning, None)


def code_of(dictionary: str, name: str) -> str:
    """Return the code of a row that has none in its file: the same name gives the same code in every version."""
    return f"{dictionary}.{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def numbered(name: str, order: int) -> str:
    """Return a name with the order number of a circuit in place of each ``#``."""
    return name.replace(PLACE, f"{order:02d}")


def signal_for(signal: Signal, order: Callable[[], int]) -> Signal:
    """Return a signal as a device has it: with the order number of its circuit in the names, where they have a place.

    Args:
        signal: As the table has it.
        order: Asked for the number only where it is needed.
    """
    if PLACE not in signal.name_zh and PLACE not in signal.name_en:
        return signal
    number = order()
    return replace(signal, name_zh=numbered(signal.name_zh, number), name_en=numbered(signal.name_en, number))


def is_settled(signal: Signal) -> bool:
    """Return whether the numbers of a row count: its level is not 0."""
    for key, text in signal.cells.items():
        if text == NOT_SETTLED:
            meaning = meaning_of(_title(key))
            if meaning is not None and meaning[0] is Meaning.LEVEL:
                return False
    return True


def difference(
    before: Mapping[str, Signal], after: Mapping[str, Signal], layout: Layout, former: Layout | None = None
) -> TableDiff:
    """Return how two versions of a table differ; added and changed rows in the order of ``after``.

    Args:
        before: Rows by code.
        after: Rows by code.
        layout: Of ``after``.
        former: Of ``before``; None is the same.
    """
    was, now = _names(former or layout), _names(layout)
    rows: list[ChangedRow] = []
    unchanged = 0
    for code, signal in after.items():
        old = before.get(code)
        if old is None:
            rows.append(ChangedRow("added", code, signal.name_zh))
        elif differences := (*_field_differences(old, signal), *_cell_differences(old, was, signal, now)):
            rows.append(ChangedRow("changed", code, signal.name_zh, differences))
        else:
            unchanged += 1
    rows += [ChangedRow("removed", code, old.name_zh) for code, old in before.items() if code not in after]
    return TableDiff(tuple(rows), unchanged)


def _field_differences(before: Signal, after: Signal) -> Iterable[Difference]:
    for one in fields(Signal):
        if one.name in ("cells", "retired", "dictionary"):
            continue
        old, new = getattr(before, one.name), getattr(after, one.name)
        if old != new:
            yield Difference(one.name, _plain(old), _plain(new))


def _cell_differences(
    before: Signal, was: Mapping[str, _Name], after: Signal, now: Mapping[str, _Name]
) -> Iterable[Difference]:
    """Yield the cells that differ, by what they mean; those that were read differ in a field already.

    The cells of a row that is not settled are not read.
    """
    old = {was.get(key, key): text for key, text in before.cells.items()}
    new = {now.get(key, key): text for key, text in after.cells.items()}
    settled = is_settled(after)
    for name in dict.fromkeys((*old, *new)):
        if (settled and not isinstance(name, str)) or old.get(name, "") == new.get(name, ""):
            continue
        title = _title(name) if isinstance(name, str) else f"{name[0]}{name[1] or ''}"
        yield Difference(title, old.get(name), new.get(name))


def _names(layout: Layout) -> dict[str, _Name]:
    return {
        column.key: column.key if column.meaning is None else (column.meaning, column.station_class)
        for column in layout.columns
    }


def _title(key: str) -> str:
    return key.partition("\x1f")[0]


def signal_facts(signal: Signal) -> JsonObject:
    """Return a row as JSON, for the versions of its table."""
    return {name: _json(value) for name, value in asdict(signal).items() if name != "retired"}


def signal_of(facts: Mapping[str, object]) -> Signal:
    """Return the row that ``signal_facts`` wrote."""
    known = dict(facts)
    known["kind"] = SignalKind(str(facts["kind"]))
    known["points"] = tuple(facts["points"])  # type: ignore[arg-type]  # a list of texts
    return Signal(**known)  # type: ignore[arg-type]  # the fields of Signal


def _json(value: object) -> Any:
    return list(value) if isinstance(value, tuple) else value.value if isinstance(value, SignalKind) else value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return _json(value)
