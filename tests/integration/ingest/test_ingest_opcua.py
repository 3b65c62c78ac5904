"""The OPC UA driver on a server of node-opcua: subscriptions, losses, security, writes."""

import asyncio
import re
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from libs.common.secretstore import SecretStore
from services.ingest.drivers.opcua import OpcUaLine
from services.ingest.drivers.opcua_open import open_opcua
from services.ingest.drivers.port import Address, DeviceRefused, LineDown, Opening
from tests.conftest import ROOT
from tests.peers.certificates import secret
from tests.peers.environments import peer_node
from tests.peers.mosquitto import free_port
from tests.unit.ingest.ingest_fakes import MEANS
from tests.unit.ingest.ingest_fakes import line as a_line
from tests.unit.ingest.telling_world import FakeSink, told_by

pytestmark = pytest.mark.integration

METER = replace(ProfileCatalogue.load().get("example_opcua_meter"), publishing_ms=100)
DEVICE = Address("meter-1", "m1", METER)
ONE = {"meter-1": DEVICE}
ALL = {
    "voltage_a": 230.0, "voltage_b": 231.0, "voltage_c": 232.0, "current_a": 1.5, "current_b": 2.5, "current_c": 3.5,
    "active_power_total": 1200.0, "energy_active_import": 1234.5, "breaker_state": 1, "temperature_setpoint": 260,
}  # fmt: skip


class Server:
    """A server that can be stopped and started on one port; one serves many tests."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.port = free_port()
        self.folder = folder
        self.options = options
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/plant"

    def start(self, **options: Any) -> None:
        given = {"port": self.port, "folder": str(self.folder), **self.options, **options}
        self._process = subprocess.Popen(
            ["node", ROOT / "tests" / "peers" / "opcua_server.js", orjson.dumps(given).decode()],
            env=peer_node("opcua"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        while self._line() != "ready":
            pass

    def kill(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with process:
                process.kill()

    def ask(self, **order: Any) -> str:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps(order).decode() + "\n")
        self._process.stdin.flush()
        return self._line()

    async def set(self, name: str, value: Any, **facts: Any) -> None:
        await asyncio.to_thread(self.ask, set=name, value=value, **facts)

    async def get(self, name: str) -> Any:
        return orjson.loads(await asyncio.to_thread(self.ask, get=name))

    def _line(self) -> str:
        """Return the next answer; the library has more to say on the same channel."""
        assert self._process is not None
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            assert line, "the server has ended"
            if not re.match(r"\d\d:\d\d:", line) and line.strip():
                return line.strip()


def serve(folder: Path, **options: Any) -> Generator[Server, None, None]:
    server = Server(folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The servers' own key and certificate take a second to make; one pair does for all."""
    return tmp_path_factory.mktemp("opcua-server")


@pytest.fixture(scope="module")
def one_server(pki: Path) -> Iterator[Server]:
    yield from serve(pki)


@pytest.fixture
def server(one_server: Server) -> Server:
    """The server that most tests share, with the values of its start."""
    one_server.ask(reset=True)
    return one_server


@pytest.fixture(scope="module")
def poor_server(pki: Path) -> Iterator[Server]:
    """One that takes few operations at once, tells only some variables, and lacks one."""
    limits = {"maxNodesPerRead": 4, "maxMonitoredItemsPerCall": 3}
    yield from serve(pki, limits=limits, items=3, without=["Setpoint"])


@pytest.fixture(scope="module")
def strict_server(pki: Path) -> Iterator[Server]:
    """One that lets in who has a password."""
    yield from serve(pki, users={"ingest": "right"})


def line(server: Server, folder: Path, *, ref: str | None = None, beside: bool = False, **settings: Any) -> OpcUaLine:
    settings = {"security": "none", **settings}
    registered = a_line(kind="opcua", endpoint=server.endpoint, credentials_ref=ref, settings=settings)
    means = replace(MEANS, folder=folder, secrets=SecretStore(folder / "secrets"))
    return open_opcua(Opening(registered, SystemClock(), means, beside=beside))


def seen(sink: FakeSink, point: str) -> list[Any]:
    return [report.raw[point] for _, report in sink.told if point in report.raw]


async def test_first_reading_and_then_what_changes(server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    async with told_by(line(server, tmp_path), ONE, sink):
        assert sink.told[0][0] == "meter-1"
        assert sink.told[0][1].raw == ALL
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        await server.set("Closed", False, at=int(at.timestamp() * 1000))
        await sink.until(lambda: seen(sink, "breaker_state") == [1, 0], "the breaker opens")
        report = sink.told[-1][1]
        assert (report.raw, report.source_time) == ({"breaker_state": 0}, at)
        await server.set("I", [1.5, 9.5, 3.5])
        await sink.until(lambda: seen(sink, "current_b")[-1] == 9.5, "an element of an array")
        assert len([report for _, report in sink.told if "current_a" in report.raw]) <= 2
    assert sink.failures == []


async def test_status_becomes_quality_and_bad_has_no_number(server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    async with told_by(line(server, tmp_path), ONE, sink):
        for value, status in (
            (1.0, "UncertainSensorNotAccurate"),
            (2.0, "BadSensorFailure"),
            (3.0, "BadNoCommunication"),
            (4.0, "Good"),
        ):
            told = len(seen(sink, "voltage_a"))
            await server.set("Ua", value, status=status)
            await sink.until(lambda told=told: len(seen(sink, "voltage_a")) > told, status)  # type: ignore[misc]
        found = [(r.raw["voltage_a"], r.quality.get("voltage_a")) for _, r in sink.told if "voltage_a" in r.raw]
    assert found[1:] == [(1.0, Quality.SUSPECT), (None, Quality.INVALID), (None, Quality.STALE), (4.0, None)]


async def test_deadband_is_the_servers(server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    async with told_by(line(server, tmp_path), ONE, sink):
        await server.set("Ua", 230.3)
        await server.set("P", 1300)
        await sink.until(lambda: seen(sink, "active_power_total")[-1] == 1300, "power")
        assert seen(sink, "voltage_a") == [230.0]
        await server.set("Ua", 230.9)
        await sink.until(lambda: seen(sink, "voltage_a")[-1] == 230.9, "voltage, by more than the deadband")


async def test_server_stopped_and_started_with_another_namespace_index(server: Server, tmp_path: Path) -> None:
    sink, driver = FakeSink(), line(server, tmp_path)
    async with told_by(driver, ONE, sink) as running:
        server.kill()
        with pytest.raises(LineDown):
            await running
        with pytest.raises(LineDown):
            await driver.session(DEVICE).read()
    with pytest.raises(LineDown, match="cannot be connected"):
        await driver.run(ONE, sink)
    await asyncio.to_thread(server.start, shift=True)
    await server.set("Ep", 1300.5)  # while nobody listens
    async with told_by(driver, ONE, sink):
        assert sink.told[-1][1].raw == {**ALL, "energy_active_import": 1300.5}
        await server.set("Ua", 240.0)
        await sink.until(lambda: seen(sink, "voltage_a")[-1] == 240.0, "values go on")


async def test_subscription_that_dies_under_a_living_session_is_built_anew(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.drivers.opcua_link.KEEPALIVE_S", 0.5)
    sink, driver = FakeSink(), line(server, tmp_path)
    async with told_by(driver, ONE, sink) as running:
        await asyncio.to_thread(server.ask, kill=True)
        with pytest.raises(LineDown):
            async with asyncio.timeout(40):
                await running
    async with told_by(driver, ONE, sink):
        await server.set("Ua", 241.0)
        await sink.until(lambda: seen(sink, "voltage_a")[-1] == 241.0, "values go on")


async def test_everything_is_read_now_and_then(server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    async with told_by(line(server, tmp_path, read_every_s=0.3), ONE, sink):
        await sink.until(lambda: len(sink.told) >= 3, "readings")
    times = [report.source_time or report.received_at for _, report in sink.told]
    assert [report.raw for _, report in sink.told[:3]] == [ALL] * 3
    # Nothing has changed, and yet each is of its own time: it held when it was read.
    assert times == sorted(set(times))
    assert [report.source_time for _, report in sink.told[1:]] == [None] * (len(times) - 1)


async def test_small_limits_and_variables_that_are_not_told(poor_server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    async with told_by(line(poor_server, tmp_path), ONE, sink):
        assert sink.told[0][1].raw == {name: value for name, value in ALL.items() if name != "temperature_setpoint"}
        await poor_server.set("Ua", 240.0)  # the first variable is told
        await poor_server.set("Closed", False)  # the last is not
        await sink.until(lambda: seen(sink, "voltage_a")[-1] == 240.0, "what is told")
        await sink.until(lambda: seen(sink, "breaker_state")[-1] == 0, "what is polled")
    assert sink.failures == []  # the missing one is optional


async def test_server_without_subscriptions_is_polled(pki: Path, tmp_path: Path) -> None:
    sink = FakeSink()
    for server in serve(pki, subscriptions=0):
        async with told_by(line(server, tmp_path), ONE, sink):
            await server.set("Ep", 1235.0)
            await sink.until(lambda: seen(sink, "energy_active_import")[-1] == 1235.0, "a counter")


async def test_missing_nodes_and_namespaces_do_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    sink = FakeSink()
    elsewhere = replace(METER, name="elsewhere", points={
        name: replace(point, node="nsu=urn:nowhere;s={device}.x") for name, point in METER.points.items()  # type: ignore[call-arg]
    })  # fmt: skip
    devices = {**ONE, "meter-2": Address("meter-2", "m2", METER), "meter-3": Address("meter-3", "m1", elsewhere)}
    async with told_by(line(server, tmp_path), devices, sink):
        assert [(device_id, report.raw) for device_id, report in sink.told] == [("meter-1", ALL)]
        assert sorted(sink.failures) == [("meter-2", "unknown_node"), ("meter-3", "unknown_node")]


async def test_a_full_spool_loses_what_a_server_cannot_keep_and_the_next_reading_brings_it(
    server: Server, tmp_path: Path
) -> None:
    sink = FakeSink(full=True)
    async with told_by(line(server, tmp_path, read_every_s=0.5), ONE, sink):
        await server.set("Ua", 235.0)
        await sink.until(lambda: sink.refusals >= 3, "refused")
        sink.full = False
        await sink.until(lambda: {**ALL, "voltage_a": 235.0} in [report.raw for _, report in sink.told], "a reading")


# writes


async def test_write_and_read_back(server: Server, tmp_path: Path) -> None:
    driver = line(server, tmp_path)
    async with told_by(driver, ONE, FakeSink()):
        session = driver.session(DEVICE)
        assert await session.write(METER.controls["breaker_open"], None) == "write: Good"
        found = await session.read_points(["breaker_state", "voltage_a"])
        assert (found.raw, found.source_time) == ({"breaker_state": 0, "voltage_a": 230.0}, None)
        assert await server.get("Closed") is False
        await session.write(METER.controls["ac_set_temperature"], 21.5)
        assert await server.get("Setpoint") == 215
        with pytest.raises(InvalidInput, match="16 to 30"):
            await session.write(METER.controls["ac_set_temperature"], 35)
        readonly = replace(METER.controls["breaker_open"], node="nsu=urn:wattring:fieldsim;s={device}.Closed")  # type: ignore[call-arg]
        with pytest.raises(DeviceRefused, match="BadNotWritable"):
            await session.write(readonly, None)
        wrong = replace(METER.controls["breaker_open"], type="Double")  # type: ignore[call-arg]
        with pytest.raises(DeviceRefused, match="BadTypeMismatch"):
            await session.write(wrong, None)


async def test_a_session_for_one_order(server: Server, tmp_path: Path) -> None:
    driver, sink = line(server, tmp_path, beside=True), FakeSink(full=True)
    async with told_by(driver, ONE, sink):
        await driver.session(DEVICE).write(METER.controls["breaker_open"], None)
        assert (await driver.session(DEVICE).read_points(["breaker_state"])).raw == {"breaker_state": 0}
    assert sink.offered == 0


# security


@pytest.mark.parametrize("security", ["sign", "sign_and_encrypt"])
async def test_both_sides_trust_by_folder_and_nothing_else(
    strict_server: Server, tmp_path: Path, security: str
) -> None:
    ours = tmp_path / "opcua"
    secret(tmp_path / "secrets", "user", "user=ingest\npassword=right\n")
    secret(tmp_path / "secrets", "wrong", "user=ingest\npassword=wrong\n")

    async def connect(ref: str | None) -> FakeSink:
        sink = FakeSink()
        async with told_by(line(strict_server, tmp_path, ref=ref, security=security), ONE, sink):
            return sink

    with pytest.raises(DeviceRefused, match="is not trusted; if it is the right one, move"):
        await connect("user")
    (shown,) = (ours / "rejected" / "certs").iterdir()
    (ours / "trusted" / "certs").mkdir(parents=True)
    shown.rename(ours / "trusted" / "certs" / shown.name)
    with pytest.raises((DeviceRefused, LineDown), match="does the server trust"):
        await connect("user")
    (own,) = (ours / "own" / "certs").iterdir()
    assert (ours / "own" / "private" / "wattring.pem").stat().st_mode & 0o777 == 0o600
    before = own.read_bytes()
    await asyncio.to_thread(strict_server.ask, trust=str(own))
    sink = await connect("user")
    assert sink.told[0][1].raw == ALL
    assert own.read_bytes() == before
    with pytest.raises(DeviceRefused):
        await connect("wrong")
    with pytest.raises(DeviceRefused):
        await connect(None)
    with pytest.raises(DeviceRefused, match="No such file"):
        await connect("none")


async def test_a_password_is_not_sent_in_plain_text_unless_that_is_wanted(
    strict_server: Server, tmp_path: Path
) -> None:
    secret(tmp_path / "secrets", "user", "user=ingest\npassword=right\n")
    with pytest.raises(DeviceRefused, match="could be read by others"):
        await line(strict_server, tmp_path, ref="user").run(ONE, FakeSink())
    async with told_by(line(strict_server, tmp_path, ref="user", plain_password=True), ONE, FakeSink()):
        pass


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"endpoint": "127.0.0.1:4840"}, "expected opc.tcp"),
        ({"endpoint": "opc.tcp://user:p@h:4840"}, "expected opc.tcp"),
        ({"settings": {"security": "Basic128Rsa15"}}, "one of sign_and_encrypt, sign, none"),
        ({"settings": {"securty": "none"}}, "no such setting"),
        ({"settings": {"read_every_s": 0}}, "seconds above 0"),
    ],
)
def test_wrong_lines(facts: dict[str, Any], said: str) -> None:
    wrong = a_line(**{"kind": "opcua", "endpoint": "opc.tcp://h:4840", **facts})
    with pytest.raises(InvalidInput, match=said) as failure:
        open_opcua(Opening(wrong, SystemClock(), MEANS, beside=False))
    assert failure.value.message_zh


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(b"ACKF" + (28).to_bytes(4, "little") + bytes(8), id="half of an acknowledgement, and no more"),
        pytest.param(b"ACKF" + (2**31).to_bytes(4, "little") + bytes(8), id="an acknowledgement of two gigabytes"),
        pytest.param(b"ERRF" + (16).to_bytes(4, "little") + bytes(8), id="an error"),
        pytest.param(b"", id="nothing"),
    ],
)
@pytest.mark.parametrize("hangs_up", [True, False])
async def test_what_answers_is_no_opc_ua_or_half_of_it(tmp_path: Path, answer: bytes, hangs_up: bool) -> None:
    ended = asyncio.Event()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        if not hangs_up:
            await ended.wait()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as listener:
        endpoint = f"opc.tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        settings = {"security": "none", "timeout_s": 0.5}
        wrong = a_line(kind="opcua", endpoint=endpoint, settings=settings)
        driver = open_opcua(Opening(wrong, SystemClock(), replace(MEANS, folder=tmp_path), beside=False))
        try:
            with pytest.raises(LineDown):
                async with asyncio.timeout(60):
                    await driver.run(ONE, FakeSink())
        finally:
            ended.set()
            await asyncio.sleep(0)
