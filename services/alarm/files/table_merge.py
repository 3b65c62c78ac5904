"""What the next version of a signal table is: a file, and what the file does not speak of."""

from collections.abc import Mapping
from dataclasses import replace

from services.alarm.domain.model import Signal
from services.alarm.domain.signal_table import Column, Layout, is_settled
from services.alarm.files.table_file import plain_cells, plain_layout


def merged(
    layout: Layout, rows: Mapping[str, Signal], former: Layout, before: Mapping[str, Signal]
) -> tuple[Layout, dict[str, Signal]]:
    """Return the layout and the rows of a file, and behind them the columns and rows that only the former version has.

    Args:
        layout: The file's.
        rows: The file's, by code.
        former: Layout of the version before.
        before: Its rows, by code.
    """
    plain = plain_layout()
    before = {code: one if one.cells else replace(one, cells=plain_cells(one, plain)) for code, one in before.items()}
    renamed, further = _columns(layout, (*former.columns, *plain.columns), before)
    added = Layout(further, ())
    unread = {column.key for column in further if column.meaning is None}
    result: dict[str, Signal] = {}
    for code, one in rows.items():
        was = before[code].cells if code in before else {}
        stays = {column.key: was[column.key] for column in further if column.key in was}
        if is_settled(replace(one, cells={**stays, **one.cells})):
            # A blank in a column that is read would say that there is nothing; it says what holds.
            stays = {**plain_cells(one, added), **{key: text for key, text in stays.items() if key in unread}}
        result[code] = replace(one, cells={**stays, **one.cells})
    for code, one in before.items():
        if code not in rows:
            result[code] = replace(one, cells={renamed.get(key, key): text for key, text in one.cells.items()})
    return _widened(layout, further), result


def _columns(
    layout: Layout, former: tuple[Column, ...], before: Mapping[str, Signal]
) -> tuple[dict[str, str], tuple[Column, ...]]:
    """Return what the file calls columns of the former version otherwise, and which of them it does not have."""
    here = {column.key for column in layout.columns}
    meant = {(column.meaning, column.station_class): column.key for column in layout.columns if column.meaning}
    used = {key for one in before.values() for key in one.cells}
    renamed: dict[str, str] = {}
    further: list[Column] = []
    for column in former:
        same = meant.get((column.meaning, column.station_class)) if column.meaning else None
        if same is not None:
            renamed[column.key] = same
        elif column.key in used and column.key not in here:
            here.add(column.key)
            if column.meaning:
                meant[column.meaning, column.station_class] = column.key
            further.append(column)
    return renamed, tuple(further)


def _widened(layout: Layout, further: tuple[Column, ...]) -> Layout:
    titles = [column.title for column in layout.columns]
    heading = next(place for place, head in enumerate(layout.heads) if list(head) == titles)
    heads = tuple(
        (*head, *(column.title if place == heading else "" for column in further))
        for place, head in enumerate(layout.heads)
    )
    return Layout((*layout.columns, *further), heads)
