"""The mappings of a connection's units as an Excel workbook: a sheet of devices, a sheet of points, a row each.

What is written is read again unchanged. Ids are texts; a cell that Excel has made a number of (and so lost
the leading zeros of) fails the dialect's rule with its row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from libs.common.errors import InvalidFile, Problem
from libs.common.workbook import Cell, Sheet, SheetRow, read_workbook, write_workbook
from services.export.dialects.messages import DeviceDetail, DeviceRef, PointType
from services.export.domain.mapping import MappedDevice, MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

DEVICES = "devices"
POINTS = "points"
DEVICE_COLUMNS = ("unit_id", "sc_device_id", "sc_device_code", "name", *DeviceDetail)
POINT_COLUMNS = (
    "unit_id", "device_id", "kind", "source", "sc_device_id", "point_id", "type", "name", "level", "network_alarm",
)  # fmt: skip

Word = TypeVar("Word", bound=StrEnum)


@dataclass
class BookUnit:
    """One unit's mapping, and the rows that it stands in."""

    devices: list[MappedDevice] = field(default_factory=list)
    points: list[MappedPoint] = field(default_factory=list)
    device_rows: list[int] = field(default_factory=list)
    point_rows: list[int] = field(default_factory=list)

    @property
    def mapping(self) -> UnitMapping:
        """The mapping, with devices that have no row of their own named by their points."""
        return UnitMapping(devices=tuple(self.devices), points=tuple(self.points))

    def placed(self, problem: Problem, unit_id: str) -> Problem:
        """Return a problem of the mapping with the sheet's row."""
        sheet, _, rest = problem.field.partition("[")
        number, _, name = rest.partition("]")
        rows = self.device_rows if sheet == DEVICES else self.point_rows
        return Problem(
            line=rows[int(number)],
            field=f"{sheet}.{name.removeprefix('.')} ({unit_id})",
            expected=problem.expected,
            expected_zh=problem.expected_zh,
            found=problem.found,
        )


def write_mapping_book(units: Mapping[str, UnitMapping]) -> bytes:
    """Return the workbook of units' mappings, by unit id."""
    devices: list[SheetRow] = []
    points: list[SheetRow] = []
    for unit_id, mapping in units.items():
        for device in mapping.devices:
            cells: dict[str, Cell] = {
                "unit_id": unit_id,
                "sc_device_id": device.ref.device_id,
                "sc_device_code": device.ref.device_code or None,
                "name": device.name or None,
                **{detail.value: device.details.get(detail) for detail in DeviceDetail},
            }
            devices.append(SheetRow(len(devices) + 2, cells))
        for point in mapping.points:
            cells = {name: getattr(point, name) for name in POINT_COLUMNS if name not in ("unit_id", "kind", "type")}
            cells |= {"unit_id": unit_id, "kind": point.kind.value, "type": point.type.value}
            points.append(SheetRow(len(points) + 2, cells))
    return write_workbook([Sheet(DEVICES, DEVICE_COLUMNS, devices), Sheet(POINTS, POINT_COLUMNS, points)])


def read_mapping_book(body: bytes, source: str) -> dict[str, BookUnit]:
    """Return the units of a workbook, each with its mapping.

    Raises:
        InvalidFile: It is no such workbook; every wrong row is listed.
    """
    reader = _Reader()
    sheets = {sheet.title: sheet for sheet in read_workbook(body, source)}
    for title in sheets:
        if title not in (DEVICES, POINTS):
            reader.wrong(None, title, f"a sheet named {DEVICES} or {POINTS}", f"工作表名应为 {DEVICES} 或 {POINTS}")
    for title, columns in ((DEVICES, DEVICE_COLUMNS), (POINTS, POINT_COLUMNS)):
        sheet = sheets.get(title)
        for column in () if sheet is None else sheet.columns:
            if column not in columns:
                names = ", ".join(columns)
                reader.wrong(1, f"{title}.{column}", f"one of the columns {names}", f"下列列名之一:{names}")
        for row in () if sheet is None else sheet.rows:
            reader.device(row) if title == DEVICES else reader.point(row)
    if reader.problems:
        raise InvalidFile(source, reader.problems)
    return reader.units


class _Reader:
    """Takes rows in and notes what is wrong with them."""

    def __init__(self) -> None:
        self.units: dict[str, BookUnit] = {}
        self.problems: list[Problem] = []

    def wrong(self, line: int | None, name: str, expected: str, expected_zh: str, found: object = None) -> None:
        self.problems.append(Problem(line=line, field=name, expected=expected, expected_zh=expected_zh, found=found))

    def device(self, row: SheetRow) -> None:
        unit_id, device_id = self._text(row, DEVICES, "unit_id"), self._text(row, DEVICES, "sc_device_id")
        unit = self.units.setdefault(unit_id, BookUnit())
        code = _plain(row.cells.get("sc_device_code")) or device_id
        details = {detail: text for detail in DeviceDetail if (text := _plain(row.cells.get(detail)))}
        ref = DeviceRef(device_id, code)
        unit.devices.append(MappedDevice(ref=ref, name=_plain(row.cells.get("name")), details=details))
        unit.device_rows.append(row.number)

    def point(self, row: SheetRow) -> None:
        unit = self.units.setdefault(self._text(row, POINTS, "unit_id"), BookUnit())
        kind, type_ = self._word(row, "kind", SourceKind), self._word(row, "type", PointType)
        level = self._level(row)
        names = ("device_id", "source", "sc_device_id", "point_id")
        texts = {name: self._text(row, POINTS, name) for name in names}
        if kind is None or type_ is None:
            return
        name = _plain(row.cells.get("name")) or None
        network_alarm = _plain(row.cells.get("network_alarm")) or None
        unit.points.append(
            MappedPoint(kind=kind, type=type_, name=name, level=level, network_alarm=network_alarm, **texts)
        )
        unit.point_rows.append(row.number)

    def _text(self, row: SheetRow, sheet: str, column: str) -> str:
        text = _plain(row.cells.get(column))
        if not text:
            self.wrong(row.number, f"{sheet}.{column}", "a value", "不能为空")
        return text

    def _word(self, row: SheetRow, column: str, words: type[Word]) -> Word | None:
        text = _plain(row.cells.get(column))
        try:
            return words(text)
        except ValueError:
            known = ", ".join(words)
            self.wrong(row.number, f"{POINTS}.{column}", f"one of {known}", f"下列之一:{known}", text or None)
            return None

    def _level(self, row: SheetRow) -> int | None:
        text = _plain(row.cells.get("level"))
        if text in ("", "1", "2", "3", "4"):
            return int(text) if text else None
        self.wrong(row.number, f"{POINTS}.level", "1 to 4, or nothing", "1至4或空", text)
        return None


def _plain(cell: Cell) -> str:
    """Return a cell's text; a whole number without the decimals that Excel may have given it."""
    if cell is None or isinstance(cell, bool):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).strip()


def units_in(books: Mapping[str, BookUnit], known: Sequence[str]) -> list[Problem]:
    """Return a problem for each unit of a workbook that is not one of those known."""
    return [
        Problem(
            line=min([*unit.device_rows, *unit.point_rows], default=None),
            field="unit_id",
            expected="a unit of this connection",
            expected_zh="该连接下的单元",
            found=unit_id,
        )
        for unit_id, unit in books.items()
        if unit_id not in known
    ]
