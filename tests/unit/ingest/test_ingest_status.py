"""What is told of devices: leaving out those of which there is nothing to tell changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.device import Connectivity, SimState
from libs.common.ids import DeviceId, SiteId
from libs.common.testing.clock import FakeClock
from services.ingest.domain.report import Report
from services.ingest.usecases.status import ONLINE_POINT, REFRESH_S, StatusBoard, StatusRow

DEVICES = ("a", "b")
INTERVAL_S = 10.0
MISSED = 3
STEPS = st.one_of(
    st.tuples(st.just("heard"), st.sampled_from(DEVICES), st.just("")),
    st.tuples(st.just("lost"), st.sampled_from(DEVICES), st.just("")),
    st.tuples(st.just("failed"), st.sampled_from(DEVICES), st.just("timeout")),
    st.tuples(st.just("texts"), st.sampled_from(DEVICES), st.sampled_from("xy")),
    st.tuples(st.just("sim"), st.sampled_from(DEVICES), st.sampled_from("12")),
    st.tuples(st.just("line"), st.sampled_from(DEVICES), st.sampled_from("lm")),
    st.tuples(st.just("wait"), st.sampled_from(DEVICES), st.sampled_from(["1", "9", "31", "299", "300"])),
)


class Kept:
    """Keeps what is told; implements ``StatusStore``."""

    def __init__(self) -> None:
        self.rows: list[StatusRow] = []

    async def load(self, device_ids: Sequence[str]) -> Mapping[str, StatusRow]:
        return {}

    async def publish(self, rows: Sequence[StatusRow]) -> None:
        self.rows += rows


class Board:
    """A board, and what it told."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.store = Kept()
        self.board = StatusBoard(self.store, clock, offline_after_missed=MISSED)
        for device_id in DEVICES:
            self.board.watch(device_id, site_id="s", line_id="l", interval_s=INTERVAL_S)

    def do(self, what: str, device_id: str, how: str) -> None:
        """Let one thing happen."""
        now = self.clock.now()
        report = Report(
            device_id=DeviceId(device_id),
            site_id=SiteId("s"),
            source_time=now,
            received_at=now,
            driver="test",
            points={},
        )
        match what:
            case "heard":
                self.board.heard(report)
            case "lost":
                self.board.heard(replace(report, points={ONLINE_POINT: 0.0}))
            case "failed":
                self.board.failed(device_id, how)
            case "texts":
                self.board.texts(device_id, {"device_model": how})
            case "sim":
                self.board.sim(device_id, SimState(iccid=how))
            case "line":
                self.board.watch(device_id, site_id="s", line_id=how, interval_s=INTERVAL_S)

    def look_at_all(self) -> None:
        """Let the next scan judge every device."""
        for found in self.board._watched.values():
            found.quiet_until = None


@given(st.lists(STEPS, max_size=30))
async def test_what_is_told_is_the_same_whether_quiet_devices_are_judged_or_not(
    steps: list[tuple[str, str, str]],
) -> None:
    clock = FakeClock()
    quick, thorough = Board(clock), Board(clock)
    for what, device_id, how in steps:
        if what == "wait":
            await clock.advance(float(how))
        quick.do(what, device_id, how)
        thorough.do(what, device_id, how)
        thorough.look_at_all()
        assert await quick.board.scan() == await thorough.board.scan()
    assert quick.store.rows == thorough.store.rows


async def test_a_device_that_stays_online_is_told_again_and_one_that_falls_silent_is_told_offline() -> None:
    clock = FakeClock()
    found = Board(clock)
    found.do("heard", "a", "")
    await found.board.scan()
    for _ in range(round(REFRESH_S / INTERVAL_S)):
        await clock.advance(INTERVAL_S)
        found.do("heard", "a", "")
        await found.board.scan()
    told = [row for row in found.store.rows if row.device_id == "a"]
    assert [row.connectivity for row in told] == [Connectivity.ONLINE, Connectivity.ONLINE]
    assert told[1].published_at - told[0].published_at == timedelta(seconds=REFRESH_S)
    await clock.advance(MISSED * INTERVAL_S + 0.001)
    await found.board.scan()
    assert [row.connectivity for row in found.store.rows if row.device_id == "a"][2:] == [Connectivity.OFFLINE]
