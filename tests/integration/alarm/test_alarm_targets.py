"""Targets that results of carbon exceed: findings by the contract, each once, and the alarms that they become."""

from contextlib import suppress
from datetime import timedelta

import pytest

from libs.common.bus import topics
from libs.common.bus.consumer import PoisonMessage
from libs.common.bus.port import Received
from libs.common.contracts.alarm import Condition
from libs.common.contracts.base import PLATFORM_SITE
from libs.common.contracts.carbon import CarbonResult, Granularity, Period
from libs.common.ids import SiteId
from services.alarm.worker.targets import LATE_AFTER, TargetsHandler
from tests.integration.alarm.alarm_world import SITE, START, World

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

MONTH = timedelta(days=30)


class Desk:
    """The handler on the world's database."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.woken = 0
        self.handler = TargetsHandler(wake=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def result(
        self,
        exceeded: bool | None,
        *,
        number: int = 0,
        version: int = 1,
        node: str = SITE,
        site: str | None = SITE,
        late: timedelta = timedelta(),
    ) -> Received:
        start = START + number * MONTH
        payload = CarbonResult(
            node=node,
            period=Period(start=start, end=start + MONTH, granularity=Granularity.MONTH),
            measure="pue",
            unit="1",
            completeness=1.0,
            version=version,
            value=1.62,
            site_id=None if site is None else SiteId(site),
            target=1.5,
            target_exceeded=exceeded,
        )
        return self.world.received(topics.CARBON_RESULTS, payload, start + MONTH + late)

    async def take(self, *batch: Received) -> None:
        async with self.world.db.effects() as conn:
            await self.handler.handle(conn, batch)
        self.handler.committed()

    async def fail(self, *batch: Received) -> None:
        with suppress(InterruptedError):
            async with self.world.db.effects() as conn:
                await self.handler.handle(conn, batch)
                raise InterruptedError
        self.handler.drop(frozenset({0}))

    async def found(self) -> list[Condition]:
        async with self.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        return [Condition.from_json(row["value"]) for row in rows]

    async def phases(self) -> list[str]:
        return [one.phase.value for one in await self.found()]


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world)


async def test_a_target_is_exceeded_in_one_month_and_met_in_the_next(desk: Desk) -> None:
    await desk.take(desk.result(True), desk.result(False, number=1))
    first, last = await desk.found()
    assert (first.phase.value, first.kind, first.site_id) == ("begin", "target_exceeded", SITE)
    assert first.subject == last.subject == f"{SITE}/pue/month"
    assert "1.62" in first.detail
    assert "1.5" in first.detail
    assert first.detail_zh is not None
    assert "超过" in first.detail_zh
    assert desk.woken == 1


async def test_what_was_never_exceeded_or_has_no_target_is_no_news(desk: Desk) -> None:
    await desk.take(desk.result(False), desk.result(None, number=1), desk.result(False, number=2))
    assert await desk.found() == []
    assert desk.woken == 0


async def test_a_corrected_month_takes_it_back_and_older_ones_change_nothing(desk: Desk) -> None:
    await desk.take(desk.result(True, number=1))
    await desk.take(desk.result(True, number=1), desk.result(False, number=0, version=9))
    assert await desk.phases() == ["begin"]
    await desk.take(desk.result(False, number=1, version=2), desk.result(True, number=1))
    assert await desk.phases() == ["begin", "end"]


async def test_years_of_history_alarm_nobody(desk: Desk) -> None:
    await desk.take(desk.result(True, late=LATE_AFTER + timedelta(seconds=1)))
    assert await desk.found() == []
    await desk.take(desk.result(True, late=LATE_AFTER))
    assert await desk.phases() == ["begin"]


async def test_a_crash_before_the_commit_loses_and_doubles_nothing(desk: Desk) -> None:
    await desk.fail(desk.result(True))
    assert await desk.found() == []
    await desk.take(desk.result(True))
    await desk.take(desk.result(True))
    assert await desk.phases() == ["begin"]


async def test_a_node_without_a_site_belongs_to_the_platform(desk: Desk) -> None:
    await desk.take(desk.result(True, node="region-44", site=None))
    assert [one.site_id for one in await desk.found()] == [PLATFORM_SITE]


async def test_the_finding_becomes_an_alarm_of_the_site_and_ends(desk: Desk) -> None:
    await desk.take(desk.result(True), desk.result(False, number=1))
    world = desk.world
    await world.take(*(world.condition(one, 60.0 * number) for number, one in enumerate(await desk.found())))
    assert [(one.phase.value, one.signal, int(one.level)) for one in await world.events()] == [
        ("begin", "wattring.condition.target_exceeded", 3),
        ("end", "wattring.condition.target_exceeded", 3),
    ]


async def test_what_is_no_result_is_poison(desk: Desk) -> None:
    with pytest.raises(PoisonMessage, match="CarbonResult"):
        await desk.take(desk.world.raw(topics.CARBON_RESULTS, b'{"node": "n"}', START))
