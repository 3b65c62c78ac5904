"""Energy of every level on a real database, from one tree and one set of books."""

from collections.abc import AsyncIterator
from datetime import timedelta

import polars as pl
import pytest

from libs.common.contracts.registry import CircuitRole
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import SiteId
from services.carbon.boundary import Boundaries, Limits, TooMuchAtOnce
from services.carbon.domain.intervals import Grade
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.periods import Step
from services.carbon.tree import Node, NodeKind
from tests.integration.carbon.carbon_levels import QUARTER, START, City, circuit, city, open_city, publish

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

DAY = timedelta(days=1)
SITE = Node(NodeKind.SITE, "site-1")


@pytest.fixture
async def town(postgres_url: str) -> AsyncIterator[City]:
    async with open_city(postgres_url, [[one] for one in city()]) as found:
        yield found


async def total(town: City, node: Node, dimension: Dimension | None = None, quarters: int = 96) -> float | None:
    found = await town.boundaries.energy(node, START, START + quarters * QUARTER, dimension)
    energies: list[float | None] = found.by_period(Step.DAY, town.clock.now())["energy_kwh"].to_list()
    return energies[0]


async def test_every_level_counts_each_energy_once(town: City) -> None:
    for name, energy in {"feed": 10.0, "room-feed": 6.0, "it": 4.0, "cool": 2.0, "lift": 3.0, "roof": 1.0}.items():
        await town.book(name, [energy] * 96)
    await town.book("tenant", [1.0] * 96, site="site-2")
    totals = {
        (kind.value, name): await total(town, Node(kind, name))
        for kind, name in [
            (NodeKind.CIRCUIT, "cool"),
            (NodeKind.ROOM, "room-1"),
            (NodeKind.SITE, "site-1"),
            (NodeKind.SITE, "site-2"),
            (NodeKind.REGION, "gz"),
            (NodeKind.REGION, "gd"),
            (NodeKind.ORGANISATION, "branch"),
            (NodeKind.ORGANISATION, "operator"),
        ]
    }
    assert totals == {
        ("circuit", "cool"): 192.0,
        ("room", "room-1"): 576.0,
        ("site", "site-1"): 960.0,
        ("site", "site-2"): 96.0,
        ("region", "gz"): 960.0,  # what site-1 passes on to site-2 is in its own feed
        ("region", "gd"): 960.0,
        ("organisation", "branch"): 960.0,
        ("organisation", "operator"): 960.0,
    }
    assert await total(town, SITE, Dimension(role=CircuitRole.COOLING)) == 192.0
    assert await total(town, SITE, Dimension(use="power")) == 288.0
    assert await total(town, SITE, Dimension(level=2)) == 864.0
    assert await total(town, Node(NodeKind.REGION, "gd"), Dimension(role=CircuitRole.SITE_FEED)) == 960.0


async def test_what_is_read_by_set_is_what_was_booked(town: City) -> None:
    await town.book("it", [1.0, None, 0.1 + 0.2])
    await town.book("it", [5e-324], version=2)
    await town.book("it", [7.0], first=3, grade=Grade.ALLOCATED)
    found = await town.boundaries.energy(Node(NodeKind.CIRCUIT, "it"), START, START + DAY)
    rows = found.intervals.select("start", "energy_kwh", "grade", "provisional", "from_parts").rows()
    assert rows == [
        (START, 5e-324, int(Grade.MEASURED), False, False),
        (START + QUARTER, None, int(Grade.MISSING), False, False),
        (START + 2 * QUARTER, 0.1 + 0.2, int(Grade.MEASURED), False, False),
        (START + 3 * QUARTER, 7.0, int(Grade.ALLOCATED), False, False),
    ]


async def test_the_next_level_stands_in_for_a_room_whose_feed_is_silent(town: City) -> None:
    await town.book("it", [4.0] * 96)
    await town.book("cool", [2.0] * 48)
    room = Node(NodeKind.ROOM, "room-1")
    found = await town.boundaries.energy(room, START, START + DAY)
    (row,) = found.by_period(Step.DAY, town.clock.now()).to_dicts()
    assert row["energy_kwh"] == 48 * 6.0
    assert (row["from_parts_share"], row["estimated_share"], row["interval_completeness"]) == (1.0, 1.0, 0.0)
    assert row["usable_share"] == 0.5
    # A tenant hangs beneath the site's feed as well, and nothing is known of it.
    assert await total(town, SITE) is None


async def test_a_circuit_that_is_replaced_counts_while_it_was_there(town: City) -> None:
    half = START + DAY / 2
    old = circuit("feed", 1, CircuitRole.SITE_FEED).model_copy(update={"valid_to": half})
    await town.change(old, circuit("feed-2", 1, CircuitRole.SITE_FEED, valid_from=half))
    await town.book("feed", [1.0] * 96)
    await town.book("feed-2", [3.0] * 96)
    assert await total(town, SITE) == 48 * 1.0 + 48 * 3.0
    whole = await town.boundaries.energy(SITE, START, START + DAY)
    cut = START + 37 * QUARTER
    pieces = [await town.boundaries.energy(SITE, first, last) for first, last in ((START, cut), (cut, START + DAY))]
    joined = pl.concat([piece.intervals for piece in pieces]).sort("circuit_id", "start")
    assert joined.equals(whole.intervals)


async def test_a_moved_circuit_is_counted_where_it_was(town: City) -> None:
    lift = circuit("lift", 2, CircuitRole.LOAD, "feed", tags=("use:power",))
    moved = lift.model_copy(update={"site": SiteId("site-2"), "valid_from": START + DAY, "version": 2, "parent": None})
    await town.book("lift", [1.0] * 192)
    await publish(town.bus, [[lift.model_copy(update={"valid_to": START + DAY}), moved]])
    await town.change(circuit("marker", 4, CircuitRole.OTHER))  # records keep their order
    use = Dimension(use="power")
    one = await town.boundaries.energy(SITE, START, START + 2 * DAY, use)
    two = await town.boundaries.energy(Node(NodeKind.SITE, "site-2"), START, START + 2 * DAY, use)
    assert one.by_period(Step.DAY, town.clock.now())["energy_kwh"].to_list() == [96.0, None]
    assert two.by_period(Step.DAY, town.clock.now())["energy_kwh"].to_list() == [None, 96.0]


async def test_too_much_is_refused_before_it_is_read(town: City) -> None:
    small = Boundaries(
        db=town.db, tree=town.boundaries.tree, clock=town.clock, limits=Limits(days=10, intervals=100, periods=5)
    )
    with pytest.raises(TooMuchAtOnce, match="at most 100 intervals"):
        await small.energy(Node(NodeKind.REGION, "gd"), START, START + DAY)
    with pytest.raises(TooMuchAtOnce, match="at most 10 days"):
        small.whole_periods(START, START + 11 * DAY, Step.YEAR)
    with pytest.raises(TooMuchAtOnce, match="at most 5 periods"):
        small.whole_periods(START, START + DAY, Step.HOUR)
    with pytest.raises(InvalidInput, match="after from"):
        small.whole_periods(START, START, Step.DAY)
    with pytest.raises(NotFound) as unknown:
        await small.energy(Node(NodeKind.ROOM, "nowhere"), START, START + DAY)
    assert unknown.value.both.chinese == "没有机房 nowhere"
