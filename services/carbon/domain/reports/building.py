"""What the contents of all kinds of report are put together with."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlencode

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.reports.content import Cell, Column, ColumnKind, Quantity, Reason, Table, Text

API = "/api/v1/"


class Reasons:
    """The reasons of a report, each told once; figures name them by key."""

    def __init__(self) -> None:
        self._found: dict[str, Reason] = {}

    def add(
        self, key: str, formula: Text, *, source: str, path: str = "", origins: Iterable[str] = ()
    ) -> str:  # fmt: skip
        """Keep a reason; return its key.

        Raises:
            ValueError: Another one has that key.
        """
        one = Reason(key=key, formula=formula, source=source, path=path, origins=tuple(origins))
        if self._found.setdefault(key, one) != one:
            raise ValueError(f"two reasons are called {key}")
        return key

    def all(self) -> tuple[Reason, ...]:
        """Return every reason, in the order in which they came."""
        return tuple(self._found.values())


def path(route: str, **asked: str | None) -> str:
    """Return the path of the API that tells something; what is None is left out."""
    query = urlencode({name.rstrip("_"): value for name, value in asked.items() if value is not None}, safe=":")
    return f"{API}{route}?{query}" if query else f"{API}{route}"


def traced(figure: str, **asked: str | None) -> str:
    """Return the path of the API that answers why a figure is what it is."""
    return path("energy/trace", figure=figure, **asked)


def civil(at: datetime) -> str:
    """Return a time as reports write it: RFC 3339 in civil time."""
    return at.astimezone(CIVIL_ZONE).isoformat()


ITEM = Column(key="item", title=Text("item", "项目"))
VALUE = Column(key="value", title=Text("figure", "数值"), kind=ColumnKind.FIGURE)
UNIT = Column(key="unit", title=Text("unit", "单位"))
REMARK = Column(key="remark", title=Text("remark", "说明"))


def key_figures(key: str, title: Text, rows: Sequence[tuple[Text, Quantity, str]]) -> Table:
    """Return a table of single figures with their units."""
    return Table(key=key, title=title, columns=(ITEM, VALUE, UNIT), rows=tuple(rows))


def facts(key: str, title: Text, rows: Iterable[tuple[Text, Text | str]]) -> Table:
    """Return a table of things that are no figures."""
    return Table(key=key, title=title, columns=(ITEM, REMARK), rows=tuple(rows))


def marks_of(row: Mapping[str, Cell | float | bool | datetime]) -> tuple[str, ...]:
    """Return the marks of a row of energy (``levels.energy.energy_by_period``, ``boundary.SpanEnergy``)."""
    found = []
    if row["energy_kwh"] is None:
        found.append("unknown_input")
    elif _less(row["usable_share"]):
        found.append("incomplete")
    if row["provisional"]:
        found.append("running")
    if _more(row["estimated_share"]):
        found.append("estimated")
    if _more(row["from_parts_share"]):
        found.append("from_parts")
    found += [name for name in ("lower_bound", "uncertain") if row.get(name)]
    return tuple(found)


def _less(share: object) -> bool:
    return isinstance(share, float) and share < 1


def _more(share: object) -> bool:
    return isinstance(share, float) and share > 0
