"""A breaker that can close by itself is told when, and shows that it will, before it is opened.

No shipped profile has such a timer; this one is of the test, on an independent Modbus server.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.common.contracts.control import CommandAction
from tests.integration.ingest.conftest import SITE, Peer, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_switching import door_load, ended, off_book_empties, order, send

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

COMMAND, TIMER = 16, 17
MARGIN_S = 120
"""Default of ``timer_margin_s``: everybody else closes before the device does. [s]"""


def write_profile(folder: Path, **timer: Any) -> None:
    """Write a profile of a breaker whose timer counts minutes in a register of its own."""

    def point(name: str, address: int, unit: str = "1", scale: float = 1) -> dict[str, Any]:
        return {"name": name, "area": "holding", "addr": address, "type": "uint16", "scale": scale, "unit": unit}

    def control(name: str, address: int, **more: Any) -> dict[str, Any]:
        return {
            "name": name, "function": "write_single_register", "area": "holding", "addr": address, "settle_s": 0,
            "verify_within_s": 2, **more,
        }  # fmt: skip

    profile = {
        "schema": "device-profile/1", "vendor": "Test", "vendor_zh": "测试", "model": "T1", "category": "breaker",
        "protocol": "modbus", "transports": ["tcp"], "unit_id_default": 1, "address_base": 0, "byte_order": "big",
        "word_order": "big", "max_registers_per_read": 16, "confidence": "high", "side": "direct",
        "points": [
            point("breaker_state", 0), point("breaker_local_lock", 1), point("x_test_close_after", TIMER, "s", 60),
        ],
        "controls": [
            control("breaker_open", COMMAND, value=0, timer={"control": "close_after", "step_s": 60, **timer}),
            control("breaker_close", COMMAND, value=1),
            control("close_after", TIMER, type="uint16", read_back={"points": ["x_test_close_after"]}, min=0, max=3600),
        ],
        "source": ["test"],
    }  # fmt: skip
    folder.mkdir()
    (folder / "test_timed.yaml").write_text(yaml.safe_dump(profile), encoding="utf-8")


class TimedBreaker:
    """Remembers every write in its order; the test is its clock."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.writes: list[tuple[int, int]] = []
        self.counts = True
        """Whether its timer takes what is written to it."""
        self.closed = True
        peer.bank.set_holding_registers(COMMAND, [0x1234])
        peer.bank.on_holding_registers_change = self._written
        self.show()

    def _written(self, address: int, from_value: int, to_value: int, srv_info: Any) -> None:
        self.writes.append((address, to_value))
        if address == COMMAND:
            self.closed = to_value == 1
            self.show()
        elif address == TIMER and not self.counts:
            self.peer.bank.set_holding_registers(TIMER, [from_value])

    def show(self) -> None:
        self.peer.bank.set_holding_registers(0, [int(self.closed), 0])


@pytest.fixture
def breaker(peer: Peer) -> TimedBreaker:
    return TimedBreaker(peer)


@pytest.fixture
async def timed(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaker: TimedBreaker
) -> AsyncIterator[RunningIngest]:
    """Ingest with the timed breaker behind a load."""
    quick(monkeypatch)
    write_profile(tmp_path / "profiles")
    async with running(postgres_url, tmp_path, profile_dirs=(tmp_path / "profiles",)) as found:
        await found.create("/api/v1/sites/site-1", SITE)
        await found.create("/api/v1/lines/line-1", {"name": "Port", "kind": "tcp", "endpoint": breaker.peer.endpoint})
        await found.create(
            "/api/v1/devices/breaker-1",
            {"name": "Breaker", "kind": "breaker", "profile": "test_timed", "site": "site-1", "line": "line-1",
             "address": "1"},
        )  # fmt: skip
        await found.create(
            "/api/v1/loads/load-1",
            {"name": "AAU 1", "kind": "aau", "site": "site-1", "sector": "1", "breaker": {"device": "breaker-1"}},
        )
        await until(lambda: door_load(found, breaker_state=1), "the breaker read closed")
        yield found


async def test_the_timer_is_set_before_the_off_and_stopped_after_the_on(
    timed: RunningIngest, breaker: TimedBreaker, tmp_path: Path
) -> None:
    off = await send(timed, order(timed, CommandAction.OPEN, restore_s=600))
    await ended(timed, off, "verified")
    (first, minutes), second = breaker.writes
    assert (first, second) == (TIMER, (COMMAND, 0))
    # In whole minutes, never earlier than what is left and the margin; the order took some seconds to come here.
    assert minutes == (600 + MARGIN_S) // 60
    # Another OFF of the same load, as after a look that was not sure: the timer is set anew.
    again = await send(timed, order(timed, CommandAction.OPEN, restore_s=1200))
    await ended(timed, again, "verified")
    assert (TIMER, (1200 + MARGIN_S) // 60) in breaker.writes
    on = await send(timed, order(timed, CommandAction.CLOSE))
    await ended(timed, on, "verified")
    assert breaker.writes[-2:] == [(COMMAND, 1), (TIMER, 0)]
    await off_book_empties(tmp_path)


async def test_an_off_that_the_device_would_not_end_by_itself_is_refused(
    timed: RunningIngest, breaker: TimedBreaker, tmp_path: Path
) -> None:
    breaker.counts = False
    deaf = await send(timed, order(timed, CommandAction.OPEN, restore_s=600))
    assert (await ended(timed, deaf, "refused"))["reason"] == "timer_not_set"
    breaker.counts = True
    too_long = await send(timed, order(timed, CommandAction.OPEN, restore_s=3600))
    assert (await ended(timed, too_long, "refused"))["reason"] == "timer_too_short"
    assert breaker.closed
    assert not [write for write in breaker.writes if write[0] == COMMAND]
    await off_book_empties(tmp_path)


async def test_under_a_work_permit_the_timer_is_stopped_first(timed: RunningIngest, breaker: TimedBreaker) -> None:
    """Who works on the circuit must not be surprised by what an earlier night has left in the device."""
    breaker.peer.bank.set_holding_registers(TIMER, [30])
    breaker.writes.clear()
    permit = order(timed, CommandAction.OPEN, restore_at=None, off_at_most_s=None, isolation_id="permit-1")
    await ended(timed, await send(timed, permit), "verified")
    assert breaker.writes == [(TIMER, 0), (COMMAND, 0)]
    # And nobody sets it as if it were a setting.
    by_hand = order(
        timed, CommandAction.SET_POINT, arguments={"point": "x_test_close_after", "value": 60.0}, load_id=None
    )
    await ended(timed, await send(timed, by_hand), "refused")
    assert len(breaker.writes) == 2
