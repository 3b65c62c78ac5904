"""Terminals that dial in: registration, heartbeats, the newest connection, and meters behind them."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libs.common.bus import topics
from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from libs.common.registry.packets import parse_pattern
from libs.fieldsim.dtu import Dialling, Terminal
from services.ingest.drivers import dtu
from services.ingest.drivers.channel import MAX_KEPT_BYTES
from services.ingest.drivers.dtu import CannotListen, DtuHub, Registration, without_noise
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.port import Address, DeviceSilent, LineDown, LineDriver
from services.ingest.settings import DtuSettings, PollingSettings
from tests.conftest import ROOT
from tests.integration.ingest.conftest import SITE, RunningIngest, quick, running, until
from tests.integration.ingest.test_ingest_modbus import FULL, PROFILE, Peer0, crc16, honest
from tests.integration.ingest.test_ingest_serial import slave_on
from tests.peers.terminals import pair
from tests.unit.ingest.ingest_fakes import MEANS

METER = ProfileCatalogue.load().get("chint_dtsu666")


class Watch:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.strangers: list[tuple[bytes, str]] = []

    def connected(self, line_id: str) -> None:
        self.heard.append(line_id)

    def refused(self, place: str, packet: bytes, reason: str) -> None:
        self.strangers.append((packet, reason))


class Port:
    """A hub that listens, and ways to dial in to it by hand."""

    def __init__(self, **settings: Any) -> None:
        self.watch = Watch()
        self.settings = DtuSettings(port=0, host="127.0.0.1", **settings)
        self.hub = DtuHub(clock=SystemClock(), settings=self.settings, watch=self.watch)
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self, *pieces: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.hub.port)
        self._writers.append(writer)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)  # a packet of its own
        return reader

    async def send(self, data: bytes, *, of: int = -1) -> None:
        self._writers[of].write(data)
        await self._writers[of].drain()

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        async def sweep() -> Any:
            self.hub.sweep()
            return condition()

        await until(sweep, what, every_s=0.01)

    def line(self, line_id: str = "line-1", **settings: Any) -> LineDriver:
        line = dtu_line(line_id, "DTU1", **settings)
        found = open_line(line, SystemClock(), PollingSettings(), replace(MEANS, hub=self.hub))
        assert not hasattr(found, "run")
        return found

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await self.hub.close()
        await asyncio.sleep(0.01)  # the transports' ends are told


@asynccontextmanager
async def port_for(*packets: str, heartbeat: str | None = None, **settings: Any) -> AsyncIterator[Port]:
    port = Port(**settings)
    for number, packet in enumerate(packets, start=1):
        assert port.hub.learn(f"line-{number}", Registration.of(packet, heartbeat)) is None
    await port.hub.listen()
    try:
        yield port
    finally:
        await port.close()


def dtu_line(line_id: str, endpoint: str, **settings: Any) -> Line:
    return Line(
        id=line_id, name="Line", valid_from=datetime(2026, 1, 1, tzinfo=UTC), version=1, changed_by="user:test",
        kind=LineKind.DTU, endpoint=endpoint, settings=settings or None,
    )  # fmt: skip


@asynccontextmanager
async def dialling(*terminals: Terminal) -> AsyncIterator[Dialling]:
    found = Dialling(list(terminals), clock=SystemClock())
    task = asyncio.create_task(found.run(), name="terminals")
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "pieces",
    [(b"DTU1",), (b"D", b"TU", b"1"), (b"DTU1\r\n",), (b"DTU1\x01\x03",)],
    ids=["whole", "in pieces", "with a line's end", "with data behind it"],
)
async def test_terminal_is_known_by_its_packet(pieces: tuple[bytes, ...]) -> None:
    async with port_for("DTU1", "DTU22") as port:
        await port.dial(*pieces)
        await port.until(lambda: port.hub.connected(), "connected")
        assert list(port.hub.connected()) == ["line-1"]
        assert port.watch.strangers == []


async def test_packet_that_another_begins_with_is_believed_after_a_silence() -> None:
    async with port_for("DTU1", "DTU12") as port:
        await port.dial(b"DTU1")
        await port.dial(b"DTU1", b"2")
        await port.until(lambda: len(port.hub.connected()) == 2, "both connected")
        assert port.watch.heard == ["line-2", "line-1"]


async def test_unknown_terminal_is_refused_with_what_it_sent() -> None:
    async with port_for("DTU1") as port:
        reader = await port.dial(b"STRANGER 7")
        assert await reader.read() == b""
        assert port.watch.strangers == [(b"STRANGER 7", "no line registers with this")]
        assert not port.hub.connected()


async def test_who_does_not_register_in_time_is_refused() -> None:
    async with port_for("DTU1", registration_within_s=0.05) as port:
        silent, slow = await port.dial(), await port.dial(b"DT")
        await port.until(lambda: len(port.watch.strangers) == 2, "both refused")
        assert (await silent.read(), await slow.read()) == (b"", b"")
        assert [packet for packet, _ in port.watch.strangers] == [b"", b"DT"]


async def test_endless_registration_is_refused() -> None:
    async with port_for("hex:" + "00" * 200, max_registration_bytes=64) as port:
        reader = await port.dial(b"\0" * 65)
        assert await reader.read() == b""
        assert not port.hub.connected()


async def test_no_more_connections_than_allowed() -> None:
    async with port_for("DTU1", "DTU2", "DTU3", max_connections=2) as port:
        await port.dial(b"DTU1")
        await port.dial(b"DTU2")
        await port.until(lambda: len(port.hub.connected()) == 2, "two connected")
        third = await port.dial()
        assert await third.read() == b""
        assert len(port.hub.connected()) == 2


async def test_newest_connection_wins_and_carries_the_requests() -> None:
    peer = Peer0("rtu", answer=honest)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    slave = server.sockets[0].getsockname()[:2]
    async with port_for("DTU1") as port:
        old = await port.dial(b"DTU1")
        await port.until(lambda: port.hub.connected(), "connected")
        device = port.line(timeout_s=0.3, quiet_s=0.1).session(Address("meter", "1", PROFILE))
        with pytest.raises(DeviceSilent):
            await device.read()
        assert port.hub.port is not None
        async with dialling(Terminal(server=("127.0.0.1", port.hub.port), registration=b"DTU1", slave=slave)):
            await port.until(lambda: len(port.watch.heard) == 2, "connected again")
            assert (await old.read()).startswith(b"\x01\x03")  # what was asked of it, and then its end
            assert (await device.read()).raw == FULL
        await port.until(lambda: not port.hub.connected(), "gone")
        with pytest.raises(LineDown, match="dialled in"):
            await device.read()
    server.close()


async def test_heartbeats_and_repeated_registrations_are_no_data() -> None:
    async with port_for("DTU1", heartbeat="PING") as port:
        reader = await port.dial(b"DTU1PING")
        await port.until(lambda: port.hub.connected(), "connected")
        device = port.line(timeout_s=5).session(Address("meter", "1", PROFILE))
        reading = asyncio.create_task(device.read_points(["voltage_a"]), name="reading")
        request = await reader.readexactly(8)
        assert request[:6] == b"\x01\x03\0\0\0\x01"
        body = b"\x01\x03\x02\x08\xfd"
        body += crc16(body)
        for piece in (b"PING", b"DTU1" + body[:3], b"PING", body[3:] + b"PING"):
            await port.send(piece)
            await asyncio.sleep(0.02)
        assert (await reading).raw == {"voltage_a": 0x08FD}


async def test_heartbeats_without_end_do_not_hold_up_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a megabyte of two-byte heartbeats took ten seconds, in which nobody else was served."""
    looked_at: list[int] = []

    def watched(data: bytes, noise: Any) -> bytes:
        looked_at.append(len(data))
        return without_noise(data, noise)

    monkeypatch.setattr(dtu, "without_noise", watched)
    connection = dtu.DtuConnection(DtuHub(clock=SystemClock(), settings=DtuSettings(), watch=Watch()))
    connection.registration = Registration.of("meter", "hex:AA 55")
    connection.carry(b"\xaa\x55" * 131_072 + b"data")
    assert await connection.inbox.take(0) == b"data"
    assert max(looked_at) <= MAX_KEPT_BYTES


async def test_silent_terminal_is_let_go() -> None:
    async with port_for("DTU1", "DTU2", idle_s=0.5) as port:
        silent = await port.dial(b"DTU1")
        await port.dial(b"DTU2")
        await port.until(lambda: len(port.hub.connected()) == 2, "connected")

        async def only_the_other() -> bool:
            await port.send(b"PING")
            port.hub.sweep()
            return list(port.hub.connected()) == ["line-2"]

        await until(only_the_other, "the silent one let go", every_s=0.05)
        assert await silent.read() == b""


async def test_dead_meter_costs_the_terminal_no_connection() -> None:
    """The terminal made the connection: ended by us it would be away until it dials again."""
    async with port_for("DTU1") as port:
        await port.dial(b"DTU1")
        await port.until(lambda: port.hub.connected(), "connected")
        device = port.line(timeout_s=0.05, quiet_s=0.05).session(Address("meter", "1", PROFILE))
        for _ in range(5):
            with pytest.raises(DeviceSilent):
                await device.read()
        assert port.watch.heard == ["line-1"]
        assert port.hub.connected()


async def test_line_learns_forgets_and_disputes() -> None:
    async with port_for("DTU1") as port:
        assert port.hub.learn("line-9", Registration.of("DTU1", None)) == "line-1"
        reader = await port.dial(b"DTU1")
        await port.until(lambda: port.hub.connected(), "connected")
        port.hub.learn("line-1", Registration.of("DTU1", "PING"))  # a new heartbeat needs no new connection
        assert list(port.hub.connected()) == ["line-1"]
        port.hub.learn("line-1", None)
        assert await reader.read() == b""
        assert port.hub.learn("line-9", Registration.of("DTU1", None)) is None
        await port.dial(b"DTU1")
        await port.until(lambda: list(port.hub.connected()) == ["line-9"], "connected as the other line")


async def test_taken_port_is_named() -> None:
    async with port_for("DTU1") as port:
        assert port.hub.port is not None
        settings = DtuSettings(port=port.hub.port, host="127.0.0.1")
        with pytest.raises(CannotListen, match="WATTRING_INGEST__DTU__PORT"):
            await DtuHub(clock=SystemClock(), settings=settings, watch=port.watch).listen()


def test_line_without_a_listener_says_what_is_missing() -> None:
    with pytest.raises(InvalidInput, match="WATTRING_INGEST__DTU__PORT"):
        open_line(dtu_line("line-1", "DTU1"), SystemClock(), PollingSettings(), MEANS)


@given(
    st.lists(st.sampled_from([b"PING", b"IMEI8671", b""])),
    st.binary(min_size=1, max_size=60),
    st.lists(st.sampled_from([b"PING", b""])),
)
def test_noise_around_data_is_cut_and_data_is_kept(before: list[bytes], data: bytes, after: list[bytes]) -> None:
    noise = (parse_pattern("PING"), parse_pattern("IMEI8671"))
    if without_noise(data, noise) != data:
        return  # it looks like a heartbeat itself
    assert without_noise(b"".join([*before, data, *after]), noise) == data


def test_heartbeat_of_one_byte_is_cut_only_alone() -> None:
    noise = (parse_pattern("hex:00"),)
    assert without_noise(b"\0", noise) == b""
    assert without_noise(b"\0\x03\0", noise) == b"\0\x03\0"


@pytest.mark.integration
async def test_slave_of_others_is_read_through_a_terminal(tmp_path: Path) -> None:
    async with pair(tmp_path) as (ours, theirs), slave_on(theirs) as slave, bridged(ours) as place:
        await slave.set(7, 0x0006, [40, 1])
        async with port_for("IMEI867123456789012", heartbeat="hex:FE") as port:
            assert port.hub.port is not None
            terminal = Terminal(
                server=("127.0.0.1", port.hub.port), registration=b"IMEI867123456789012", slave=place,
                heartbeat=b"\xfe", heartbeat_every_s=0.01, latency_s=0.05,
            )  # fmt: skip
            async with dialling(terminal):
                await port.until(lambda: port.hub.connected(), "connected")
                device = port.line().session(Address("meter", "7", METER))
                for _ in range(5):
                    assert (await device.read_points(["ct_ratio"])).raw == {"ct_ratio": 40}


@asynccontextmanager
async def bridged(pty: str) -> AsyncIterator[tuple[str, int]]:
    """A TCP port that is a serial line, by socat."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    process = await asyncio.create_subprocess_exec(
        "socat", "-d", "-d", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", f"{pty},raw,echo=0",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while b"listening on" not in await process.stderr.readline():
                pass
        yield "127.0.0.1", port
    finally:
        process.terminate()
        await process.wait()


# The whole of ingest.


@asynccontextmanager
async def connection_to(port: int) -> AsyncIterator[asyncio.StreamWriter]:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0.01)


async def create_line(ingest: RunningIngest) -> None:
    await ingest.create("/api/v1/sites/site-1", SITE)
    await ingest.create(
        "/api/v1/lines/line-1", {"name": "DTU", "kind": "dtu", "endpoint": "IMEI1", "settings": {"timeout_s": 0.5}}
    )
    await ingest.create(
        "/api/v1/devices/meter-1",
        {"name": "Meter", "kind": "meter_3p", "profile": "chint_dtsu666", "site": "site-1", "line": "line-1",
         "address": "1"},
    )  # fmt: skip


def port_of(ingest: RunningIngest) -> int:
    port = hub_of(ingest).port
    assert port is not None
    return port


def hub_of(ingest: RunningIngest) -> DtuHub:
    (worker,) = [found for found in ingest.service.independent if found.name == "ingest.terminals"]
    hub: DtuHub = worker.run.__self__.hub  # type: ignore[attr-defined]
    return hub


def statuses(ingest: RunningIngest, connectivity: str) -> Callable[[], Awaitable[Any]]:
    async def found() -> Any:
        return [m for m in await ingest.messages(topics.DEVICE_STATUS) if m["connectivity"] == connectivity]

    return found


async def meter_peer(peer: Peer0, unit: int, pdu: bytes) -> bytes | None:
    count = int.from_bytes(pdu[3:5], "big")
    return bytes([pdu[0], 2 * count]) + b"\x45\x0f\xe0\x00" * (count // 2) + b"\0\1" * (count % 2)


@asynccontextmanager
async def listening_ingest(
    postgres_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, instance: str = "0"
) -> AsyncIterator[RunningIngest]:
    quick(monkeypatch)
    monkeypatch.setenv("WATTRING_INGEST__DTU__PORT", "0")
    monkeypatch.setenv("WATTRING_INGEST__DTU__HOST", "127.0.0.1")
    async with running(postgres_url, folder, instance=instance) as ingest:

        async def listens() -> bool:
            with contextlib.suppress(AssertionError):
                return port_of(ingest) > 0
            return False

        await until(listens, "the port for terminals")
        yield ingest


@pytest.mark.integration
@pytest.mark.postgres
async def test_meter_behind_a_terminal_is_online_while_it_is_connected_and_strangers_are_on_record(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer0("rtu", answer=meter_peer)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    slave = server.sockets[0].getsockname()[:2]
    async with listening_ingest(postgres_url, tmp_path, monkeypatch) as ingest:
        place = ("127.0.0.1", port_of(ingest))
        async with dialling(
            Terminal(server=place, registration=b"IMEI1", slave=slave, redial_s=0.2),
            Terminal(server=place, registration=b"IMEI-OF-NOBODY", redial_s=0.2),
        ) as terminals:
            await create_line(ingest)
            (online, *_) = await until(statuses(ingest, "online"), "online")
            assert online["line_id"] == "line-1"

            async def on_record() -> Any:
                items = (await ingest.get("/api/v1/rejected", reason="unknown_device"))["items"]
                return [item for item in items if item["raw_base64"] == "SU1FSS1PRi1OT0JPRFk="]

            await until(on_record, "the stranger on record")
            assert len(await on_record()) == 1  # though it dials again and again
            dialled = terminals.dialled
            terminals.hang_up()

            async def read_again() -> bool:
                latest = (await ingest.get("/api/v1/readings/latest", device="meter-1"))["items"]
                return terminals.dialled > dialled and bool(latest)

            await until(read_again, "dialled in again")
        await until(statuses(ingest, "offline"), "offline")
        (offline, *_) = await statuses(ingest, "offline")()
        assert offline["reason"] == "line_down"
    server.close()


@pytest.mark.integration
@pytest.mark.postgres
async def test_line_follows_its_terminal_from_process_to_process(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former process does not know that its connection is dead: nobody has ended it."""
    peer = Peer0("rtu", answer=meter_peer)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    slave = server.sockets[0].getsockname()[:2]

    def holds(ingest: RunningIngest) -> Callable[[], Awaitable[bool]]:
        (worker,) = [found for found in ingest.service.workers if found.name == "ingest.lines"]

        async def found() -> bool:
            held: frozenset[str] = worker.run.__self__.held()  # type: ignore[attr-defined]
            return held == {"line-1"}

        return found

    async with (
        listening_ingest(postgres_url, tmp_path, monkeypatch, "0") as first,
        listening_ingest(postgres_url, tmp_path, monkeypatch, "1") as second,
        contextlib.AsyncExitStack() as closing,
    ):
        await create_line(first)
        for ingest in (second, first):
            dead = await closing.enter_async_context(connection_to(port_of(ingest)))
            async with dialling(Terminal(server=("127.0.0.1", port_of(ingest)), registration=b"IMEI1", slave=slave)):
                await until(holds(ingest), "the line with whoever hears its terminal")

                async def heard_there(since: int = len(peer.requests)) -> bool:
                    return len(peer.requests) > since

                await until(heard_there, "polled through it")
            # The next process is dialled in to while this one still believes in a connection.
            dead.write(b"IMEI1")

        async def let_go() -> bool:
            return not hub_of(second).connected()

        await until(let_go, "the connection that nobody ended, ended by who lost the line")
    server.close()


@pytest.mark.integration
async def test_idle_terminals_take_less_than_20_kb_each() -> None:
    """Line, task and meter included: 300 MB hold ten thousand in one process."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.suite.bench_terminals", "2000", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    found = json.loads((await process.communicate())[0])
    assert process.returncode == 0
    assert found["terminals"] >= 700
    assert found["with_tasks_mb"] - found["before_mb"] < 200 * found["terminals"] / 10_000 + 10, found
    assert found["with_tasks_mb"] < 300, found
