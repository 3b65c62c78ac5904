"""One exchange at a time over a stream without numbers: late answers, noise, pace, and who doubts a connection.

Time is that of the channel: it passes while somebody waits for bytes, and nothing here sleeps.
"""

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from libs.common.testing.clock import FakeClock
from services.ingest.drivers.liveness import Liveness
from services.ingest.drivers.port import Address, DeviceSilent, LineDown
from services.ingest.drivers.stream import MAX_HEARD_BYTES, StreamLine
from services.ingest.drivers.taps import Passing

TIMEOUT_S, QUIET_S = 1.0, 0.5


class Time(FakeClock):
    """A clock that jumps to whatever is waited for."""

    async def sleep(self, delay_s: float) -> None:
        await self.advance(delay_s)

    async def advance(self, by_s: float) -> None:
        self._monotonic += by_s


@dataclass
class FakeChannel:
    """Bytes with the time at which each piece comes."""

    clock: Time
    answer: Callable[["FakeChannel", bytes], None] = lambda channel, request: None
    coming: deque[tuple[float, bytes]] = field(default_factory=deque)
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    opened: int = 0
    is_open: bool = False
    hangs_up_at: float = float("inf")

    async def open(self) -> None:
        if not self.is_open:
            self.is_open, self.opened = True, self.opened + 1

    async def send(self, data: bytes) -> None:
        self.sent.append((self.clock.monotonic(), data))
        self.answer(self, data)

    async def receive(self, timeout_s: float) -> bytes:
        now = self.clock.monotonic()
        until = now + max(timeout_s, 0.0)
        at = self.coming[0][0] if self.coming else float("inf")
        if min(at, self.hangs_up_at) > until:
            await self.clock.advance(until - now)
            raise TimeoutError
        if self.hangs_up_at < at:
            await self.clock.advance(max(self.hangs_up_at - now, 0.0))
            raise LineDown("hung up")
        await self.clock.advance(max(at - now, 0.0))
        data = b""
        while self.coming and self.coming[0][0] <= self.clock.monotonic():
            data += self.coming.popleft()[1]
        return data

    async def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.coming.clear()

    def later(self, delay_s: float, data: bytes) -> None:
        self.coming.append((self.clock.monotonic() + delay_s, data))
        self.coming = deque(sorted(self.coming))


def scan(data: bytes) -> tuple[int, bytes | None]:
    """Frames are ``[x]``; whatever stands before is garbage."""
    start = data.find(b"[")
    if start < 0:
        return len(data), None
    end = data.find(b"]", start)
    return (start, None) if end < 0 else (end + 1, data[start + 1 : end])


def line_on(channel: FakeChannel, **settings: float | bool) -> StreamLine:
    return StreamLine(channel, sessions={}, clock=channel.clock, timeout_s=TIMEOUT_S, quiet_s=QUIET_S, **settings)  # type: ignore[arg-type]


async def ask(line: StreamLine, what: bytes = b"1", device: str = "d") -> bytes:
    return await line.exchange(what, scan, device=device, what=f"asked {what.decode()}")


def at_once(channel: FakeChannel, request: bytes) -> None:
    channel.later(0.1, b"[" + request + b"]")


def never(channel: FakeChannel, request: bytes) -> None:
    return None


async def test_answer_is_put_together_from_pieces_and_noise_is_passed_over() -> None:
    def answer(channel: FakeChannel, request: bytes) -> None:
        for number, piece in enumerate([b"\xff\xfe", b"[", request, b"]\0"]):
            channel.later(0.1 * number, piece)

    channel = FakeChannel(Time(), answer)
    line = line_on(channel)
    assert [await ask(line, b"1"), await ask(line, b"2")] == [b"1", b"2"]
    assert channel.opened == 1


@given(
    st.lists(st.floats(0, TIMEOUT_S + QUIET_S, exclude_max=True), min_size=1, max_size=12),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
async def test_no_late_answer_is_taken_for_another(delays: list[float], doubled: list[bool]) -> None:
    """However late within the line's pauses, and twice in one segment: an exchange gives its own answer or none."""
    clock = Time()
    pending = deque(zip(delays, doubled, strict=False))

    def answer(channel: FakeChannel, request: bytes) -> None:
        delay_s, twice = pending.popleft()
        channel.later(delay_s, (b"[" + request + b"]") * (2 if twice else 1))

    channel = FakeChannel(clock, answer)
    line = line_on(channel, renews=False)
    for number, delay_s in enumerate(delays):
        name = f"request {number}".encode()
        try:
            found = await ask(line, name)
        except DeviceSilent:
            assert delay_s >= TIMEOUT_S
        else:
            assert found == name


async def test_unasked_bytes_are_thrown_away_before_asking() -> None:
    channel = FakeChannel(Time(), at_once)
    line = line_on(channel)
    await ask(line)
    channel.later(0.0, b"[stale]")
    assert await ask(line, b"2") == b"2"


async def test_line_that_never_falls_silent_is_given_up() -> None:
    channel = FakeChannel(Time(), never)
    line = line_on(channel)
    for number in range(200):
        channel.later(0.1 * number, b"\x55")
    with pytest.raises(DeviceSilent):
        await ask(line)
    with pytest.raises(LineDown, match="silent"):
        await ask(line)
    assert not channel.is_open


async def test_who_talks_without_end_does_not_fill_the_memory() -> None:
    def answer(channel: FakeChannel, request: bytes) -> None:
        channel.later(0.0, b"x" * (MAX_HEARD_BYTES + 1))

    line = line_on(FakeChannel(Time(), answer))
    with pytest.raises(DeviceSilent) as caught:
        await ask(line)
    assert 0 < len(caught.value.facts["raw"]) <= 512


async def test_pace_is_kept_between_an_answer_and_the_next_request() -> None:
    channel = FakeChannel(Time(), at_once)
    line = line_on(channel, pacing_s=3.0)
    for _ in range(3):
        await ask(line)
    times = [at for at, _ in channel.sent]
    assert [round(after - before, 3) for before, after in itertools.pairwise(times)] == [3.1, 3.1]


async def test_connection_that_breaks_after_a_request_leaves_the_outcome_open() -> None:
    channel = FakeChannel(Time(), never)
    line = line_on(channel)
    channel.hangs_up_at = channel.clock.monotonic() + 0.2
    with pytest.raises(DeviceSilent, match="hung up"):
        await ask(line)
    channel.hangs_up_at = float("inf")
    channel.answer = at_once
    assert await ask(line) == b"1"
    assert channel.opened == 2


async def test_connection_that_was_closed_while_idle_is_made_anew_unnoticed() -> None:
    channel = FakeChannel(Time(), at_once)
    line = line_on(channel)
    await ask(line)
    real_open = channel.open

    async def reopen() -> None:
        if not channel.is_open:
            channel.hangs_up_at = float("inf")
        await real_open()

    channel.open = reopen  # type: ignore[method-assign]
    channel.hangs_up_at = channel.clock.monotonic()
    assert await ask(line) == b"1"
    assert channel.opened == 2


@pytest.mark.parametrize(("renews", "opened"), [(True, 2), (False, 1)])
async def test_connection_on_which_nobody_answers_is_made_anew_where_we_made_it(renews: bool, opened: int) -> None:
    channel = FakeChannel(Time(), at_once)
    line = line_on(channel, renews=renews)
    await ask(line)
    channel.answer = never
    for _ in range(3):
        with pytest.raises(DeviceSilent):
            await ask(line)
    channel.answer = at_once
    await ask(line)
    assert channel.opened == opened


async def test_looking_for_strangers_costs_no_connection() -> None:
    channel = FakeChannel(Time(), never)
    line = line_on(channel)
    for _ in range(10):
        with pytest.raises(DeviceSilent):
            await ask(line, device="")
    assert channel.opened == 1


async def test_announcement_is_sent_when_the_line_is_quiet_and_needs_no_answer() -> None:
    channel = FakeChannel(Time(), never)
    line = line_on(channel)
    with pytest.raises(DeviceSilent):
        await ask(line)
    await line.announce(b"time")
    assert channel.sent[1][0] - channel.sent[0][0] >= TIMEOUT_S + QUIET_S
    channel.answer = at_once
    assert await ask(line, b"2") == b"2"


async def test_who_listens_in_sees_frames_but_no_passwords() -> None:
    channel = FakeChannel(Time(), at_once)
    line = line_on(channel)
    heard: list[Passing] = []
    line.taps.add(heard.append)
    await ask(line, b"1", device="meter")
    await line.exchange(b"pass", scan, device="meter", what="secret", secret=True)
    line.taps.remove(heard.append)
    line.taps.add(never_called)
    line.taps.remove(never_called)
    await ask(line, b"3")
    assert [(one.device, one.sent, one.data, one.size) for one in heard] == [
        ("meter", True, b"1", 1),
        ("meter", False, b"[1]", 3),
        ("meter", True, b"", 4),
        ("meter", False, b"", 6),
    ]


def never_called(passing: Passing) -> None:
    pytest.fail("it does not listen any more")


async def test_protocol_that_the_line_does_not_carry_is_named() -> None:
    line = line_on(FakeChannel(Time()))
    with pytest.raises(InvalidInput, match="modbus is not spoken"):
        line.session(Address("d", "1", ProfileCatalogue.load().get("chint_dtsu666")))


class TestLiveness:
    def test_dead_device_says_nothing_of_the_connection_while_another_lives(self) -> None:
        liveness = Liveness()
        liveness.answered("alive")
        assert not any(liveness.silent("dead") for _ in range(20))

    def test_all_that_answered_and_stopped_do(self) -> None:
        liveness = Liveness()
        for device in ("a", "b"):
            liveness.answered(device)
        assert [liveness.silent(device) for device in ("a", "a", "a", "b")] == [False, False, False, True]

    def test_three_of_many_are_enough(self) -> None:
        liveness = Liveness()
        for number in range(30):
            liveness.answered(str(number))
        assert [liveness.silent(str(number)) for number in (1, 2, 3)] == [False, False, True]

    def test_an_answer_takes_all_doubts(self) -> None:
        liveness = Liveness()
        liveness.answered("a")
        assert not any(liveness.silent("a") for _ in range(2))
        liveness.answered("a")
        assert not liveness.silent("a")
