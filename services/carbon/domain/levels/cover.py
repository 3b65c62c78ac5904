"""Which meters the energy of a node is made of, so that nothing is counted twice.

A node's total comes from its feeds: at a site the circuits with the role ``site_feed``, in a room those with
``room_feed``; where none has that role, the circuits of the lowest metering level. A circuit that hangs beneath
another one of them is left out, across sites too: what a landlord passes on is counted once in a city. Where a
feed has no value, the sum of the next level beneath it stands in, and only where all of it is known.

The tree has a history. A cover is therefore a list of terms with their own spans: whichever way a question is
cut into spans, an interval is counted by what was so at its start.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.common.contracts.registry import CircuitRole
from libs.common.ids import CircuitId, RoomId, SiteId

SOURCES = frozenset({CircuitRole.GENERATOR, CircuitRole.PV})
"""Circuits that deliver: they are no part of what a node takes in."""
USE_TAG = "use:"
"""A tag that begins with it says what a circuit's energy is used for (分项用途): ``use:lighting``."""
FINEST_LEVEL = 4
"""Level 4 stands for 4 and finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A circuit as it was for some time."""

    circuit: CircuitId
    site: SiteId
    room: RoomId | None
    level: int
    """Metering level: 1 whole unit, 2 main line, 3 key equipment, 4 and more finer."""
    role: CircuitRole
    parent: CircuitId | None
    above: tuple[CircuitId, ...] = ()
    """The parent, its parent and so on, nearest first."""
    children: tuple[tuple[CircuitId, CircuitRole], ...] = ()
    """What hangs directly beneath it, at other sites too, by id."""
    tags: tuple[str, ...] = ()
    rated_kw: float | None = None
    transformer: str | None = None
    line: str | None = None

    @property
    def uses(self) -> tuple[str, ...]:
        """What its energy is used for."""
        return tuple(tag.removeprefix(USE_TAG) for tag in self.tags if tag.startswith(USE_TAG))


@dataclass(frozen=True, slots=True)
class Segment:
    """The circuits of a site while nothing of them changed, ``[start, end)``."""

    start: datetime
    end: datetime
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """A circuit that is counted in a total for the intervals that begin in ``[start, end)``."""

    circuit: CircuitId
    site: SiteId
    start: datetime
    end: datetime
    parts: tuple[CircuitId, ...] = ()
    """The next level, whose sum stands in where the circuit itself is unknown; empty where nothing can."""
    above: tuple[CircuitId, ...] = ()
    """What it hangs beneath, nearest first."""


Choose = Callable[[Sequence[Branch]], list[Branch]]
"""Picks the circuits whose sum is asked for out of those of a site."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A free choice of circuits; what is None does not matter."""

    role: CircuitRole | None = None
    tag: str | None = None
    use: str | None = None
    level: int | None = None
    """4 stands for 4 and finer."""

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked for, so that the node itself is meant."""
        return self == Dimension()

    def matches(self, branch: Branch) -> bool:
        """Return whether a circuit is meant."""
        return (
            (self.role is None or branch.role is self.role)
            and (self.tag is None or self.tag in branch.tags)
            and (self.use is None or self.use in branch.uses)
            and (self.level is None or self._is_of_level(branch))
        )

    def _is_of_level(self, branch: Branch) -> bool:
        """Return whether a circuit takes in energy at the level; what delivers is asked for by its role."""
        return branch.role not in SOURCES and min(branch.level, FINEST_LEVEL) == min(self.level or 0, FINEST_LEVEL)


def whole_site(branches: Sequence[Branch]) -> list[Branch]:
    """Return the feeds of a site."""
    return _feeds(branches, CircuitRole.SITE_FEED)


def whole_room(room: RoomId) -> Choose:
    """Return what picks the feeds of a room."""
    return lambda branches: _feeds([one for one in branches if one.room == room], CircuitRole.ROOM_FEED)


def only(*circuits: CircuitId) -> Choose:
    """Return what picks circuits by name, none that hangs beneath another of them."""
    return lambda branches: topmost([one for one in branches if one.circuit in circuits])


def matching(dimension: Dimension, *, room: RoomId | None = None, beneath: CircuitId | None = None) -> Choose:
    """Return what picks the circuits of a dimension, each energy once.

    Args:
        dimension: Which ones.
        room: Only those of this room.
        beneath: Only this circuit and those that hang beneath it.
    """

    def choose(branches: Sequence[Branch]) -> list[Branch]:
        return topmost(
            [
                one
                for one in branches
                if dimension.matches(one)
                and (room is None or one.room == room)
                and (beneath is None or one.circuit == beneath or beneath in one.above)
            ]
        )

    return choose


def topmost(branches: Sequence[Branch]) -> list[Branch]:
    """Return the branches that hang beneath no other of them, by id."""
    chosen = {one.circuit for one in branches}
    return sorted((one for one in branches if chosen.isdisjoint(one.above)), key=lambda one: one.circuit)


def cover(history: Iterable[Segment], choose: Choose) -> list[Term]:
    """Return the terms of a site's total, those that follow each other unchanged as one."""
    found: list[Term] = []
    running: dict[CircuitId, int] = {}
    for segment in history:
        for one in choose(segment.branches):
            # Behind a feed with a source of its own the loads take more than comes in.
            has_source = any(role in SOURCES for _, role in one.children)
            parts = () if has_source else tuple(circuit for circuit, _ in one.children)
            term = Term(one.circuit, one.site, segment.start, segment.end, parts, one.above)
            at = running.get(one.circuit)
            if at is not None and replace(term, start=found[at].start) == replace(found[at], end=term.end):
                if found[at].end == term.start:
                    found[at] = replace(found[at], end=term.end)
                    continue
            running[one.circuit] = len(found)
            found.append(term)
    return found


def clip(terms: Iterable[Term], start: datetime, end: datetime) -> list[Term]:
    """Return what of the terms lies in ``[start, end)``."""
    return [
        replace(one, start=max(one.start, start), end=min(one.end, end))
        for one in terms
        if one.start < end and one.end > start
    ]


def together(terms: Sequence[Term]) -> list[Term]:
    """Return the terms of several sites' sum: without what another of them has counted already."""
    spans: dict[CircuitId, list[Term]] = {}
    for one in terms:
        spans.setdefault(one.circuit, []).append(one)
    found = []
    for one in terms:
        left = [one]
        for above in one.above:
            for other in spans.get(above, ()):
                left = [rest for part in left for rest in _without(part, other.start, other.end)]
        found += left
    return found


def _feeds(branches: Sequence[Branch], role: CircuitRole) -> list[Branch]:
    takers = [one for one in branches if one.role not in SOURCES]
    feeds = [one for one in takers if one.role is role]
    if not feeds and takers:
        lowest = min(one.level for one in takers)
        feeds = [one for one in takers if one.level == lowest]
    return topmost(feeds)


def _without(term: Term, start: datetime, end: datetime) -> list[Term]:
    """Return what is left of a term outside of ``[start, end)``."""
    return clip([term], term.start, min(start, term.end)) + clip([term], max(end, term.start), term.end)
