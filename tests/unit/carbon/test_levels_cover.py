"""Which meters a total is made of: nothing twice, whichever way it is cut."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.registry import CircuitRole
from libs.common.ids import CircuitId, RoomId, SiteId
from services.carbon.domain.levels.cover import (
    Branch,
    Dimension,
    Segment,
    Term,
    clip,
    cover,
    matching,
    only,
    together,
    topmost,
    whole_room,
    whole_site,
)

T0 = datetime(2026, 3, 1, 16, tzinfo=UTC)
END = T0 + timedelta(days=30)
SITE, OTHER = SiteId("s1"), SiteId("s2")


def branch(
    name: str,
    level: int = 2,
    role: CircuitRole = CircuitRole.LOAD,
    *above: str,
    room: str | None = None,
    tags: tuple[str, ...] = (),
    children: tuple[tuple[str, CircuitRole], ...] = (),
    site: SiteId = SITE,
) -> Branch:
    return Branch(
        circuit=CircuitId(name),
        site=site,
        room=None if room is None else RoomId(room),
        level=level,
        role=role,
        parent=CircuitId(above[0]) if above else None,
        above=tuple(CircuitId(one) for one in above),
        tags=tags,
        children=tuple((CircuitId(one), kind) for one, kind in children),
    )


LOAD = CircuitRole.LOAD
TREE = [
    branch("feed", 1, CircuitRole.SITE_FEED, children=(("room", CircuitRole.ROOM_FEED), ("lift", LOAD))),
    branch("room", 2, CircuitRole.ROOM_FEED, "feed", room="r1", children=(("it", LOAD), ("cool", LOAD))),
    branch("lift", 2, LOAD, "feed", tags=("use:power", "tower-a")),
    branch("it", 3, CircuitRole.IT_OUTPUT, "room", "feed", room="r1"),
    branch("cool", 3, CircuitRole.COOLING, "room", "feed", room="r1", tags=("use:cooling", "tower-a")),
    branch("fan", 5, CircuitRole.COOLING, "cool", "room", "feed", room="r1", tags=("use:cooling",)),
    branch("roof", 1, CircuitRole.PV),
]


def names(branches: list[Branch]) -> list[str]:
    return [one.circuit for one in branches]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (whole_site(TREE), ["feed"]),
        (whole_room(RoomId("r1"))(TREE), ["room"]),
        (only(CircuitId("cool"))(TREE), ["cool"]),
        (matching(Dimension(role=CircuitRole.COOLING))(TREE), ["cool"]),
        (matching(Dimension(use="cooling"))(TREE), ["cool"]),
        (matching(Dimension(tag="tower-a"))(TREE), ["cool", "lift"]),
        (matching(Dimension(level=4))(TREE), ["fan"]),
        (matching(Dimension(level=3), room=RoomId("r1"))(TREE), ["cool", "it"]),
        (matching(Dimension(role=CircuitRole.COOLING), beneath=CircuitId("lift"))(TREE), []),
        (matching(Dimension(role=CircuitRole.COOLING), beneath=CircuitId("room"))(TREE), ["cool"]),
    ],
    ids=["site", "room", "circuit", "role", "use", "tag", "finest level", "level in room", "not beneath", "beneath"],
)
def test_a_choice_takes_each_energy_once(found: list[Branch], expected: list[str]) -> None:
    assert names(found) == expected


def test_without_a_feed_the_lowest_level_is_the_whole_and_sources_are_no_part_of_it() -> None:
    assert names(whole_site([one for one in TREE if one.circuit != "feed"])) == ["lift", "room"]
    assert names(whole_site([one for one in TREE if one.role is CircuitRole.PV])) == []


def test_a_feed_beneath_a_feed_is_not_counted_again() -> None:
    feeds = [branch("a", 1, CircuitRole.SITE_FEED), branch("b", 1, CircuitRole.SITE_FEED, "a")]
    assert names(whole_site(feeds)) == ["a"]


def test_the_next_level_may_stand_in_but_not_behind_a_source() -> None:
    (term,) = cover([Segment(T0, END, tuple(TREE))], whole_site)
    assert term == Term(CircuitId("feed"), SITE, T0, END, (CircuitId("room"), CircuitId("lift")))
    with_source = branch("feed", 1, CircuitRole.SITE_FEED, children=(("room", LOAD), ("roof", CircuitRole.PV)))
    (term,) = cover([Segment(T0, END, (with_source,))], whole_site)
    assert term.parts == ()


def test_what_does_not_change_is_one_term_and_what_changes_is_two() -> None:
    half = T0 + timedelta(days=10)
    before, after = branch("feed", 1, CircuitRole.SITE_FEED), branch("new", 1, CircuitRole.SITE_FEED)
    same = [Segment(T0, half, (before,)), Segment(half, END, (before, branch("lift", 2, LOAD, "feed")))]
    assert cover(same, whole_site) == [Term(before.circuit, SITE, T0, END)]
    changed = [Segment(T0, half, (before,)), Segment(half, END, (after,))]
    assert cover(changed, whole_site) == [
        Term(before.circuit, SITE, T0, half),
        Term(after.circuit, SITE, half, END),
    ]


def test_what_a_landlord_passes_on_is_counted_once_in_a_city_while_the_landlord_is_counted() -> None:
    half = T0 + timedelta(days=10)
    landlord = Term(CircuitId("a"), SITE, T0, half)
    tenant = Term(CircuitId("b"), OTHER, T0, END, (), (CircuitId("a"),))
    assert together([landlord, tenant]) == [landlord, Term(CircuitId("b"), OTHER, half, END, (), (CircuitId("a"),))]
    assert together([tenant]) == [tenant]


@st.composite
def forests(draw: st.DrawFn) -> list[Branch]:
    """Circuits, each beneath an earlier one or beneath none."""
    size = draw(st.integers(1, 12))
    above: list[tuple[str, ...]] = []
    found = []
    for number in range(size):
        parent = draw(st.none() | st.integers(0, number - 1)) if number else None
        above.append(() if parent is None else (f"c{parent}", *above[parent]))
        role = draw(st.sampled_from([CircuitRole.SITE_FEED, LOAD, CircuitRole.COOLING, CircuitRole.PV]))
        found.append(branch(f"c{number}", draw(st.integers(1, 5)), role, *above[number]))
    return found


@given(forests(), st.sampled_from([whole_site, matching(Dimension(role=LOAD)), topmost]))
def test_no_circuit_of_a_choice_lies_within_another(forest: list[Branch], choose: object) -> None:
    chosen = choose(forest)  # type: ignore[operator]
    ids = {one.circuit for one in chosen}
    assert len(ids) == len(chosen)
    assert all(ids.isdisjoint(one.above) for one in chosen)


@given(forests(), st.lists(st.integers(0, 30 * 96), max_size=4))
def test_cutting_a_span_changes_no_term(forest: list[Branch], cuts: list[int]) -> None:
    half = T0 + timedelta(days=11)
    history = [Segment(T0, half, tuple(forest)), Segment(half, END, tuple(forest[: len(forest) // 2 + 1]))]
    whole = cover(history, whole_site)
    edges = sorted({T0, END, *(T0 + timedelta(minutes=15 * cut) for cut in cuts)})
    for at in (T0, half, END - timedelta(minutes=15), *edges[:-1]):
        inside = [one.circuit for one in whole if one.start <= at < one.end]
        pieces = [
            one.circuit
            for first, last in pairwise(edges)
            for one in clip(whole, first, last)
            if one.start <= at < one.end
        ]
        assert sorted(inside) == sorted(pieces)
