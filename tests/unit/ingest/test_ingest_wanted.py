"""Which lines are polled, as the registry changes under them."""

from datetime import datetime, timedelta

from libs.common.contracts.registry import EntityKind, LineKind, record_of
from libs.common.ids import LineId
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.ingest.settings import PollingSettings
from services.ingest.usecases.topology import Topology
from services.ingest.worker.wanted import LOOKED_AT_EVERY_S, WantedLines
from tests.unit.ingest.ingest_fakes import LONG_AGO, MEANS, device, line, site, topology


def wanted(found: Topology, clock: FakeClock | None = None) -> WantedLines:
    lines = WantedLines(
        topology=found,
        catalogue=ProfileCatalogue.load(),
        clock=clock or FakeClock(),
        settings=PollingSettings(),
        means=MEANS,
    )

    def changed(kind: EntityKind, entity_id: str) -> None:
        lines.note(kind, entity_id)

    found.on_change(changed)
    for entity in ("line-1", "line-2"):
        lines.note(EntityKind.LINE, entity)
    lines.refresh()
    return lines


def polled(lines: WantedLines) -> dict[str, list[str]]:
    return {line_id: sorted(found.devices) for line_id, found in lines.lines.items()}


def test_device_that_moves_leaves_its_old_line() -> None:
    found = topology(site(), line(), line(id="line-2"), device())
    lines = wanted(found)
    assert polled(lines) == {"line-1": ["breaker-1"]}
    found.put(record_of([device(line=LineId("line-2"), version=2)]))
    assert lines.refresh() == {"line-1", "line-2"}
    assert polled(lines) == {"line-2": ["breaker-1"]}


def test_change_of_something_else_concerns_no_line() -> None:
    found = topology(site(), line(), device())
    lines = wanted(found)
    found.put(record_of([site(name="renamed", version=2)]))
    assert lines.refresh() == set()


def test_what_cannot_be_polled_is_left_out() -> None:
    for entities in (
        (line(kind=LineKind.MQTT), device()),
        (line(endpoint="nowhere:x"), device()),
        (line(settings={"timeout_s": -1}), device()),
        (line(), device(profile="no_such_profile")),
        (line(), device(profile="dlt645_2007_meter")),
        (line(), device(profile=None)),
    ):
        assert polled(wanted(topology(site(), *entities))) == {}


async def test_device_begins_and_ends_by_its_own_dates() -> None:
    clock = FakeClock()
    begins, ends = clock.now() + timedelta(hours=1), clock.now() + timedelta(hours=2)
    lines = wanted(topology(site(), line(), device(installed_at=begins, decommissioned_at=ends)), clock)
    seen = []
    for _ in range(4):
        lines.refresh()
        seen.append(polled(lines))
        await clock.advance(40 * 60)
    assert seen == [{}, {}, {"line-1": ["breaker-1"]}, {}]


class TakesLong(FakeClock):
    """A clock by which every look at a line takes some time."""

    look_s = 0.0
    looks = 0

    def now(self) -> datetime:
        self.looks += 1
        self._monotonic += self.look_s
        return super().now()


async def test_a_line_that_takes_long_is_looked_at_less_often_and_others_as_before() -> None:
    clock = TakesLong()
    lines = wanted(topology(site(), line()), clock)  # two lines, of which neither has a device
    looks = []
    for clock.look_s in (0.0, 0.5):
        await clock.advance(LOOKED_AT_EVERY_S)
        lines.refresh()  # how long a look takes is known when it was made
        clock.looks = 0
        for _ in range(10):
            await clock.advance(LOOKED_AT_EVERY_S)
            lines.refresh()
        looks.append(clock.looks)
    assert looks == [20, 2]  # every 10 s and, half a second each, every 100 s


def test_line_that_is_removed_is_not_polled() -> None:
    found = topology(site(), line(), device())
    lines = wanted(found)
    ended = line(version=2, valid_to=LONG_AGO + timedelta(days=1))
    found.put(record_of([ended]))
    assert lines.refresh() == {"line-1"}
    assert polled(lines) == {}
