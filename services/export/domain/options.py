"""Options of points: sets of threshold, level and delays among which a centre chooses (dialect Y). Pure.

Without templates of the centre's own each point has one, the set that alarm's rules hold, under the id ``1``; a unit's
own files say the same. A centre that chooses it has its will, any other is a no.

With templates (``StdSPConfigOptionDic.xml`` of the centre) a point that they name has those. The one in use is the one
that agrees with what holds, so that a change by people shows; where none does, no option is in use. To choose one is
to order its threshold and delays from alarm and its level from the mapping. What templates say of storage (period and
changes) is one value an hour here, so that any other is refused, unless people have said that it is ignored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.export.dialects.messages import (
    DeviceOptions,
    DeviceSelection,
    OptionOrder,
    PointOption,
)
from services.export.domain.latest import selected
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

OPTION = "1"
"""Id of the only option of a point that no template is of."""
NONE_IN_USE = ""
"""Stands for the option of a point whose settings no template has."""
STORED_EVERY_S = 3600.0
"""One value of each hour is stored. [s]"""
SAME = 1e-6
"""Numbers that differ less, relative to the greater, are the same: they come as decimals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One template; None is what it does not say."""

    option_id: str
    level: int | None = None
    threshold: float | None = None
    start_delay_s: float | None = None
    end_delay_s: float | None = None
    hysteresis: float | None = None
    period_s: float | None = None
    """Values are to be stored so often. [s]"""
    absolute: float | None = None
    """Change of the value that is to be stored besides, in its unit."""
    relative: float | None = None
    """The same in percent."""


@dataclass(frozen=True, slots=True)
class OptionBook:
    """Templates of one centre, by point id and option id."""

    name: str = ""
    version: str = ""
    ignores_storage: bool = False
    """What templates say of storage is passed over."""
    options: Mapping[str, Mapping[str, Option]] = field(default_factory=dict)

    def of(self, point_id: str) -> Mapping[str, Option]:
        """Return the templates of a point; none when there are none of it."""
        return self.options.get(point_id, {})

    def can_be(self, option: Option, point: MappedPoint) -> bool:
        """Return whether a point can be as a template says."""
        if point.kind is not SourceKind.SIGNAL and option.threshold is not None:
            return False
        if self.ignores_storage:
            return True
        return option.period_s in (None, STORED_EVERY_S) and not option.absolute and not option.relative


NO_BOOK = OptionBook()


class Holding(Protocol):
    """What holds for a signal in alarm."""

    @property
    def threshold(self) -> float | None:
        """In the rule's unit."""

    @property
    def level(self) -> int | None:
        """1 (worst) to 4."""

    @property
    def hysteresis(self) -> float:
        """In the rule's unit."""

    @property
    def start_delay_s(self) -> float:
        """Before an alarm begins. [s]"""

    @property
    def end_delay_s(self) -> float:
        """Before it ends. [s]"""


def in_use(book: OptionBook, point: MappedPoint, held: Holding | None) -> str:
    """Return the id of the option that a point uses: the first template that agrees with what holds."""
    templates = book.of(point.point_id)
    if not templates:
        return OPTION
    found = (id_ for id_, option in templates.items() if book.can_be(option, point) and agrees(option, point, held))
    return next(found, NONE_IN_USE)


def agrees(option: Option, point: MappedPoint, held: Holding | None) -> bool:
    """Return whether what holds for a point is what a template says."""
    if point.kind is not SourceKind.SIGNAL:
        return True  # it says nothing but how values are stored
    if held is None:
        return False
    pairs = (
        (option.threshold, held.threshold),
        (option.hysteresis, held.hysteresis),
        (option.start_delay_s, held.start_delay_s),
        (option.end_delay_s, held.end_delay_s),
    )
    return all(wanted is None or _same(wanted, there) for wanted, there in pairs) and option.level in (
        None,
        point.level or held.level,
    )


def options_of(
    mapping: UnitMapping,
    selection: Sequence[DeviceSelection],
    book: OptionBook = NO_BOOK,
    held: Mapping[tuple[str, str], Holding] | None = None,
) -> tuple[DeviceOptions, ...]:
    """Return the options in use of the points that are asked for; what is not mapped, or uses none, is left out.

    Args:
        mapping: The unit's.
        selection: What is asked for.
        book: The centre's templates.
        held: What holds, by our device and signal; wanted where templates are.
    """
    known = held or {}
    return tuple(
        DeviceOptions(
            device,
            tuple(
                PointOption(point_id, point.type, used)
                for point_id, point in points
                if point is not None
                and (used := in_use(book, point, known.get((point.device_id, point.source)))) != NONE_IN_USE
            ),
        )
        for device, points in selected(mapping, selection)
    )


def templated(mapping: UnitMapping, selection: Sequence[DeviceSelection], book: OptionBook) -> list[MappedPoint]:
    """Return the signals among the points that are asked for whose option depends on what holds in alarm."""
    points = (point for _, found in selected(mapping, selection) for _, point in found if point is not None)
    return [point for point in points if point.kind is SourceKind.SIGNAL and book.of(point.point_id)]


def contradictory(orders: Iterable[OptionOrder]) -> set[tuple[str, str]]:
    """Return the points (device, point) for which a message orders different options."""
    first: dict[tuple[str, str], str] = {}
    found: set[tuple[str, str]] = set()
    for order in orders:
        key = (order.device.device_id, order.point_id)
        if first.setdefault(key, order.option_id) != order.option_id:
            found.add(key)
    return found


def _same(wanted: float, there: float | None) -> bool:
    return there is not None and abs(wanted - there) <= SAME * max(abs(wanted), abs(there), 1.0)
