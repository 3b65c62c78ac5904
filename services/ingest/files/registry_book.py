"""The registry as an Excel workbook: a sheet per kind, a column per field, a row per entity.

The same fields and rules as the YAML file; a field within a field is named with a dot (``breaker.device``), a list is
one cell with commas, free settings of a line are columns ``settings.<name>``, what others have on file is
``archive.<item>``. A cell that Excel holds as a date is local time of the country, because Excel knows no offset.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from typing import get_args, get_origin

from pydantic import BaseModel, JsonValue

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import ENTITY_TYPES, Entity, EntityKind
from libs.common.errors import InvalidFile, Problem
from libs.common.registry.file import LISTS, NOT_IN_A_FILE, SCHEMA
from libs.common.workbook import Cell, Sheet, SheetRow, read_workbook, write_workbook
from libs.common.yamlfile import Path, YamlDocument, plain_scalar

FREE = ("settings", "archive")
"""Fields whose columns are those that somebody has filled in."""
_LIST_SEPARATORS = str.maketrans({"\uff0c": ",", ";": ",", "\uff1b": ",", "\u3001": ","})


def read_registry_book(body: bytes, source: str) -> YamlDocument:
    """Return a workbook as the document that ``read_registry`` takes; its lines are the rows of the sheets.

    Raises:
        InvalidFile: It is no workbook, or a sheet is not named for a kind of entity.
    """
    data: dict[str, JsonValue] = {"schema": SCHEMA}
    lines: dict[Path, int] = {(): 1}
    texts: dict[Path, str] = {}
    problems: list[Problem] = []
    for sheet in read_workbook(body, source):
        if sheet.title not in LISTS:
            names = ", ".join(LISTS)
            problems.append(
                Problem(
                    line=None,
                    field=sheet.title,
                    expected=f"a sheet named one of {names}",
                    expected_zh=f"工作表名应为下列之一:{names}",
                    found=sheet.title,
                )
            )
            continue
        lists = _list_fields(ENTITY_TYPES[LISTS[sheet.title]])
        items: list[JsonValue] = []
        for place, row in enumerate(sheet.rows):
            path: Path = (sheet.title, place)
            lines[path] = row.number
            items.append(_item(row, path, lists, texts))
        data[sheet.title] = items
    if problems:
        raise InvalidFile(source, problems)
    return YamlDocument(source=source, data=data, lines=lines, texts=texts)


def write_registry_book(entities: Mapping[EntityKind, Sequence[Entity]]) -> bytes:
    """Return a workbook that ``read_registry_book`` takes again unchanged; every kind has its sheet."""
    return write_workbook(_sheet(title, ENTITY_TYPES[kind], entities.get(kind, ())) for title, kind in LISTS.items())


def _item(row: SheetRow, path: Path, lists: frozenset[str], texts: dict[Path, str]) -> dict[str, JsonValue]:
    item: dict[str, JsonValue] = {}
    for column, cell in row.cells.items():
        outer, _, inner = column.partition(".")
        if inner:
            within = item.setdefault(outer, {})
            if isinstance(within, dict):
                within[inner] = _value(cell, (*path, outer, inner), texts)
            continue
        if outer in lists and isinstance(cell, str):
            parts = [part.strip() for part in cell.translate(_LIST_SEPARATORS).split(",")]
            item[outer] = [part for part in parts if part]
            continue
        item[outer] = _value(cell, (*path, outer), texts)
    return item


def _value(cell: Cell, path: Path, texts: dict[Path, str]) -> JsonValue:
    if isinstance(cell, bool) or cell is None:
        return cell
    if isinstance(cell, datetime):
        # A day without a time is one where a date is wanted; where a time is, midnight is not guessed.
        plain = cell.time() == time() and cell.tzinfo is None
        text = cell.date().isoformat() if plain else _local(cell).isoformat()
        texts[path] = text
        return text
    if isinstance(cell, date | time):
        texts[path] = cell.isoformat()
        return texts[path]
    if isinstance(cell, int | float):
        texts[path] = str(cell)
        return cell
    texts[path] = cell
    return plain_scalar(cell)


def _local(moment: datetime) -> datetime:
    return moment.replace(tzinfo=CIVIL_ZONE) if moment.tzinfo is None else moment


def _list_fields(model: type[Entity]) -> frozenset[str]:
    return frozenset(name for name, info in model.model_fields.items() if get_origin(info.annotation) is tuple)


def _sheet(title: str, model: type[Entity], entities: Iterable[Entity]) -> Sheet:
    rows = [
        SheetRow(number, _flat(entity.model_dump(mode="json", exclude=set(NOT_IN_A_FILE), exclude_none=True)))
        for number, entity in enumerate(entities, start=2)
    ]
    columns = list(_columns(model))
    for row in rows:  # free settings
        columns += [name for name in row.cells if name not in columns]
    return Sheet(title, columns, rows)


def _columns(model: type[Entity]) -> Iterable[str]:
    first = ("id", "name", "name_zh")
    yield from first
    for name, info in model.model_fields.items():
        if name in first or name in NOT_IN_A_FILE:
            continue
        inner = next((part for part in (info.annotation, *get_args(info.annotation)) if _is_model(part)), None)
        if inner is not None:
            yield from (f"{name}.{field}" for field in inner.model_fields)
        elif name not in FREE:
            yield name


def _is_model(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _flat(fields: Mapping[str, JsonValue]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            cells |= {f"{name}.{inner}": _scalar(one) for inner, one in value.items()}
        elif isinstance(value, list):
            if value:
                cells[name] = ", ".join(str(one) for one in value)
        else:
            cells[name] = _scalar(value)
    return cells


def _scalar(value: JsonValue) -> Cell:
    return value if isinstance(value, str | int | float | bool) else None
