"""The MQTT driver on a real broker: what is safe is acknowledged and nothing else, whatever breaks in between."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import aiomqtt
import orjson
import pytest

from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue
from libs.common.secretstore import SecretStore
from services.ingest.drivers.mqtt import MqttLine
from services.ingest.drivers.mqtt_link import Broker
from services.ingest.drivers.mqtt_open import open_mqtt
from services.ingest.drivers.port import Address, DeviceRefused, DeviceSilent, LineDown, NotLetIn, Opening
from tests.peers.certificates import Authority, secret
from tests.peers.mosquitto import Mosquitto
from tests.unit.ingest.ingest_fakes import MEANS
from tests.unit.ingest.ingest_fakes import line as a_line
from tests.unit.ingest.telling_world import FakeSink, addresses, told_by

pytestmark = pytest.mark.integration

METER = ProfileCatalogue.load().get("example_mqtt_meter")
ONE = addresses(METER, **{"meter-1": "SN1"})
Version = Literal["5", "3.1.1"]
VERSIONS: tuple[Version, ...] = ("5", "3.1.1")


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "mosquitto") as found:
        yield found


def line(broker: Mosquitto, version: Version = "5", **facts: Any) -> MqttLine:
    own = {
        name: facts.pop(name) for name in ("each", "beside", "answer_within_s", "max_payload_bytes") if name in facts
    }
    there = Broker("127.0.0.1", broker.port, facts.pop("client_id", "wattring-line-1"), version=version, **facts)
    return MqttLine(
        broker=lambda: there,
        clock=SystemClock(),
        **{"max_payload_bytes": 65536, "answer_within_s": 5.0, **own},
    )


@asynccontextmanager
async def device(broker: Mosquitto, name: str = "device") -> AsyncIterator[aiomqtt.Client]:
    client = aiomqtt.Client(
        "127.0.0.1", broker.port, identifier=name, protocol=aiomqtt.ProtocolVersion.V5, max_inflight_messages=200
    )
    client.pending_calls_threshold = 1000
    async with client:
        yield client


def payload(n: int = 1, at: datetime | None = None, **values: Any) -> bytes:
    at = at or datetime.now(UTC)
    return orjson.dumps({"t": int(at.timestamp() * 1000), "n": n, "v": values or {"ua": 230.0 + n}})


async def say(broker: Mosquitto, *messages: bytes, topic: str = "meters/SN1/up", **facts: Any) -> None:
    async with device(broker) as client:
        for message in messages:
            await client.publish(topic, message, **{"qos": 1, **facts})


def numbers(sink: FakeSink) -> list[int | None]:
    return [report.seq for _, report in sink.told]


@pytest.mark.parametrize("version", VERSIONS)
async def test_report_with_the_devices_own_time(broker: Mosquitto, version: Version) -> None:
    sink, at = FakeSink(), datetime(2026, 11, 20, 1, 2, 3, 4000, tzinfo=UTC)
    async with told_by(line(broker, version), ONE, sink):
        await say(broker, payload(7, at, ua=230.5, p=1200, breaker="open", f=None))
        await sink.until(lambda: sink.told, "a report")
    ((device_id, report),) = sink.told
    assert device_id == "meter-1"
    assert report.raw == {"voltage_a": 230.5, "active_power_total": 1200, "breaker_state": 0, "frequency": None}
    assert (report.source_time, report.seq) == (at, 7)


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_sent_while_we_were_away_comes_with_the_session(broker: Mosquitto, version: Version) -> None:
    sink = FakeSink()
    async with told_by(line(broker, version), ONE, sink):
        pass
    await say(broker, *(payload(n) for n in range(5)))
    async with told_by(line(broker, version), ONE, sink):
        await sink.until(lambda: len(sink.told) == 5, "what was kept for us")
    assert numbers(sink) == [0, 1, 2, 3, 4]
    async with told_by(line(broker, version), ONE, sink):
        await say(broker, payload(9))
        await sink.until(lambda: 9 in numbers(sink), "a later report")
    assert numbers(sink) == [0, 1, 2, 3, 4, 9]  # acknowledged messages do not come again


@pytest.mark.parametrize("version", VERSIONS)
async def test_broker_stopped_in_mid_stream(broker: Mosquitto, version: Version) -> None:
    """Nothing that a device was told is with the broker is lost; what was not acknowledged comes twice."""
    sink = FakeSink()
    for sent in (0, 40, 80):
        async with told_by(line(broker, version, receive_max=20), ONE, sink) as running:
            await say(broker, *(payload(n) for n in range(sent, sent + 40)))
            if sent == 40:
                sink.gate.clear()  # nothing of these is accepted before the broker is gone
            await sink.until(lambda: sink.offered, "some of them have come")
            await broker.stop()
            sink.gate.set()
            with pytest.raises(LineDown):
                await running
            await broker.start()
    async with told_by(line(broker, version), ONE, sink):
        await sink.until(lambda: len(set(numbers(sink))) == 120, "all of it")
    assert {n for n in numbers(sink) if n is not None} == set(range(120))


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_was_accepted_and_not_acknowledged_comes_again(broker: Mosquitto, version: Version) -> None:
    """As after a kill between acceptance and acknowledgement: the process is gone, the broker still has it."""
    first, second = FakeSink(), FakeSink()
    async with told_by(line(broker, version), ONE, first):
        first.gate.clear()
        await say(broker, payload(1))
        await first.until(lambda: first.offered, "the message is being accepted")
    async with told_by(line(broker, version), ONE, second):
        await second.until(lambda: second.told, "the message again")
    assert numbers(second) == [1]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_full_spool_acknowledges_nothing(
    broker: Mosquitto, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.drivers.mqtt.FULL_PAUSE_S", 0.05)
    sink, after = FakeSink(full=True), FakeSink()
    async with told_by(line(broker, version), ONE, sink):
        await say(broker, payload(1), payload(2))
        await sink.until(lambda: sink.refusals >= 3, "offered again and again")
        assert "Received PUBACK from wattring-line-1" not in broker.log()
    async with told_by(line(broker, version), ONE, after):
        await after.until(lambda: len(after.told) == 2, "both, from the broker")
        await say(broker, payload(3))
        await after.until(lambda: len(after.told) == 3, "and what comes then")
    assert numbers(after) == [1, 2, 3]
    assert "Received PUBACK from wattring-line-1" in broker.log()


async def test_a_spool_that_has_room_again_takes_what_waited(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ingest.drivers.mqtt.FULL_PAUSE_S", 0.05)
    sink = FakeSink(full=True)
    async with told_by(line(broker), ONE, sink):
        await say(broker, payload(1))
        await sink.until(lambda: sink.refusals, "refused")
        sink.full = False
        await sink.until(lambda: sink.told, "accepted on the same connection")
    assert (numbers(sink), sink.ups) == ([1], 1)


async def test_the_broker_sends_no_more_than_we_can_have_waiting(broker: Mosquitto) -> None:
    sink = FakeSink()
    async with told_by(line(broker, receive_max=10), ONE, sink):
        sink.gate.clear()
        await say(broker, *(payload(n) for n in range(50)))
        await sink.until(lambda: broker.log().count("Sending PUBLISH to wattring-line-1") >= 10, "ten are on their way")
        assert broker.log().count("Sending PUBLISH to wattring-line-1") == 10
        sink.gate.set()
        await sink.until(lambda: len(sink.told) == 50, "all of them")
    assert numbers(sink) == list(range(50))


@pytest.mark.parametrize(("version", "count"), [("5", 10_000), ("3.1.1", 1_000)])
async def test_ten_thousand_old_messages_at_once(broker: Mosquitto, version: Version, count: int) -> None:
    sink, begin = FakeSink(takes_s=0.002), datetime.now(UTC) - timedelta(days=20)
    async with told_by(line(broker, version), ONE, sink):
        pass
    async with device(broker) as client:
        for n in range(0, count, 200):
            await asyncio.gather(*(
                client.publish("meters/SN1/up", payload(n + i, begin + timedelta(seconds=60 * (n + i))), qos=1)
                for i in range(200)
            ))  # fmt: skip
    async with told_by(line(broker, version), ONE, sink):
        await sink.until(lambda: len(sink.told) == count, "all of them", 60)
    assert numbers(sink) == list(range(count))
    assert len(sink.batches) < count / 5  # what waits is accepted together


async def test_hostile_messages_are_on_record_and_stop_nothing(broker: Mosquitto) -> None:
    sink, ahead = FakeSink(), datetime.now(UTC) + timedelta(days=3)
    async with told_by(line(broker), ONE, sink):
        await say(
            broker,
            b'{"t": 1, "n": 1, "v": {"ua": NaN}}',
            b"x" * 300 * 1024,
            b"",
            b"\xff\xfe",
            b"[" * 20_000,
            orjson.dumps({"t": "soon", "v": {"ua": 1}}),
            orjson.dumps({"t": 0}),
            payload(8, ahead),
        )
        await say(broker, payload(9), topic="meters/SN2/up")
        await say(broker, payload(10))
        await sink.until(lambda: 10 in numbers(sink), "the good message after them")
    assert [reason for reason, *_ in sink.rejected] == [
        RejectReason.NOT_A_NUMBER, RejectReason.TOO_LARGE, RejectReason.UNDECODABLE, RejectReason.UNDECODABLE,
        RejectReason.UNDECODABLE, RejectReason.UNREADABLE_TIME, RejectReason.MISSING_FIELD,
        RejectReason.UNKNOWN_DEVICE,
    ]  # fmt: skip
    assert sink.rejected[1][1] == b"x" * 300 * 1024
    assert [device_id for *_, device_id in sink.rejected[5:]] == ["meter-1", "meter-1", None]
    # A time ahead of ours is judged behind this driver, with the device's time in the report.
    assert sink.told[0][1].source_time == ahead.replace(microsecond=ahead.microsecond // 1000 * 1000)


async def test_many_reports_in_one_message(broker: Mosquitto) -> None:
    sink = FakeSink()
    items = [orjson.loads(payload(n)) for n in range(100)]
    async with told_by(line(broker), ONE, sink):
        await say(broker, orjson.dumps({"items": items}), topic="meters/SN1/history")
        await sink.until(lambda: len(sink.told) == 100, "all of them")
    assert (numbers(sink), sink.batches) == (list(range(100)), [100])


async def test_retained_message_without_a_time_is_no_news(broker: Mosquitto) -> None:
    timeless = replace(METER, reports=(replace(METER.reports[0], time=None),))
    sink = FakeSink()
    await say(broker, payload(1), retain=True)
    async with told_by(line(broker), addresses(timeless, **{"meter-1": "SN1"}), sink):
        await say(broker, payload(2))
        await sink.until(lambda: sink.told, "the live one")
    assert numbers(sink) == [2]
    assert sink.told[0][1].source_time is None


async def test_duplicate_client_id_is_named(broker: Mosquitto) -> None:
    first, second = FakeSink(), FakeSink()
    async with told_by(line(broker), ONE, first) as running:
        async with told_by(line(broker), ONE, second):
            with pytest.raises(LineDown, match="another client uses the id wattring-line-1"):
                await running
            await say(broker, payload(1))
            await second.until(lambda: second.told, "what comes goes to the second")


@pytest.mark.parametrize(
    ("goodbye", "said"),
    [
        (b"\xe0\x02\x8e\x00", "another client with the id wattring-line-1 has taken the session over"),
        (b"\xe0\x02\x8b\x00", "the broker has disconnected us: Server shutting down"),
        (b"\xff\xff\xff\xff\xff\xff", "no MQTT|has gone"),
    ],
)
async def test_why_a_broker_ends_a_connection_is_told(goodbye: bytes, said: str) -> None:
    """By a broker of a few bytes; mosquitto 2.0.11 gives no reasons."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")
        subscribe = await reader.read(1000)
        writer.write(b"\x90\x06" + subscribe[2:4] + b"\x00\x01\x01\x00")
        writer.write(goodbye)
        await reader.read(1000)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        there = Broker("127.0.0.1", server.sockets[0].getsockname()[1], "wattring-line-1")
        driver = MqttLine(broker=lambda: there, clock=SystemClock(), max_payload_bytes=1, answer_within_s=1)
        with pytest.raises(LineDown, match=said):
            await driver.run(ONE, FakeSink())
        await driver.close()


async def test_subscription_per_device_leaves_other_devices_alone(broker: Mosquitto) -> None:
    sink = FakeSink()
    async with told_by(line(broker, each=True), ONE, sink):
        await say(broker, payload(1), topic="meters/SN2/up")
        await say(broker, payload(2))
        await sink.until(lambda: sink.told, "ours")
    assert (numbers(sink), sink.rejected) == ([2], [])


# who is let in


async def test_wrong_password_and_forbidden_topic_are_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    made = await asyncio.create_subprocess_exec(  # it comes with the broker
        "mosquitto_passwd", "-c", "-b", folder / "passwords", "ingest", "right", stderr=asyncio.subprocess.DEVNULL
    )
    assert await made.wait() == 0
    (folder / "acl").write_text("user ingest\ntopic readwrite meters/#\n")
    async with Mosquitto(
        folder, "password_file {folder}/passwords", "acl_file {folder}/acl", anonymous=False
    ) as broker:
        for version in VERSIONS:
            with pytest.raises(NotLetIn, match="refuses the connection"):
                async with told_by(line(broker, version, user="ingest", password="wrong"), ONE, FakeSink()):
                    pass
            async with told_by(line(broker, version, user="ingest", password="right"), ONE, FakeSink()):
                pass


async def test_nobody_listens(broker: Mosquitto) -> None:
    await broker.stop()
    with pytest.raises(LineDown, match="cannot be connected"):
        async with told_by(line(broker), ONE, FakeSink()):
            pass
    with pytest.raises(LineDown):
        await line(broker).session(ONE["meter-1"]).read()


# commands


@asynccontextmanager
async def breaker(
    broker: Mosquitto, answer: Callable[[dict[str, Any]], list[tuple[str, dict[str, Any]]]]
) -> AsyncIterator[list[dict[str, Any]]]:
    """A device that is told orders and answers as ``answer`` says."""
    orders: list[dict[str, Any]] = []
    async with device(broker, "breaker") as client:
        await client.subscribe("meters/SN1/down", qos=1)

        async def obey() -> None:
            async for message in client.messages:
                order = orjson.loads(bytes(message.payload))
                orders.append(order)
                for topic, reply in answer(order):
                    await client.publish(f"meters/SN1/{topic}", orjson.dumps(reply))

        obeying = asyncio.create_task(obey())
        try:
            yield orders
        finally:
            obeying.cancel()
            await asyncio.wait([obeying])


def state(word: str, n: int = 1) -> tuple[str, dict[str, Any]]:
    return "up", orjson.loads(payload(n, breaker=word))


@pytest.mark.parametrize("version", VERSIONS)
async def test_command_reply_and_read_back(broker: Mosquitto, version: Version) -> None:
    def answer(order: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        if order["cmd"] == "report":
            return [state(found[-1])]
        found.append("open" if order["cmd"] == "open" else "closed")
        return [("reply", {"id": "another", "code": 7}), ("reply", {"id": order["id"], "code": 0})]

    found, sink = ["closed"], FakeSink()
    driver = line(broker, version)
    async with breaker(broker, answer) as orders, told_by(driver, ONE, sink):
        session = driver.session(ONE["meter-1"])
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 1}
        assert await session.write(METER.controls["breaker_open"], None) == "meters/SN1/reply: taken"
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 0}
        assert [order["cmd"] for order in orders] == ["report", "open", "report"]
        assert [report.raw["breaker_state"] for _, report in sink.told] == [1, 0]  # what is read is told too


@pytest.mark.parametrize(("code", "error"), [(3, DeviceRefused), (False, DeviceRefused), (None, DeviceSilent)])
async def test_reply_that_is_no_yes(broker: Mosquitto, code: Any, error: type[Exception]) -> None:
    driver = line(broker, answer_within_s=0.3)
    reply = lambda order: [] if code is None else [("reply", {"id": order["id"], "code": code})]  # noqa: E731
    async with breaker(broker, reply), told_by(driver, ONE, FakeSink()):
        with pytest.raises(error):
            await driver.session(ONE["meter-1"]).write(METER.controls["breaker_open"], None)


async def test_nobody_subscribed_to_the_command_topic(broker: Mosquitto) -> None:
    driver = line(broker)
    async with told_by(driver, ONE, FakeSink()):
        with pytest.raises(DeviceRefused, match="nobody is subscribed"):
            await driver.session(ONE["meter-1"]).write(METER.controls["breaker_open"], None)


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_off_does_not_wait_at_the_broker_for_a_device_that_is_away(
    broker: Mosquitto, version: Version
) -> None:
    async def listen(clean: bool) -> list[bytes]:
        client = aiomqtt.Client(
            "127.0.0.1", broker.port, identifier="away", protocol=aiomqtt.ProtocolVersion.V311, clean_session=clean
        )
        taken: list[bytes] = []
        async with client:
            await client.subscribe("meters/SN1/down", qos=1)
            await client.subscribe("marker", qos=1)
            await client.publish("marker", b"m")
            async for message in client.messages:
                if message.topic.matches("marker"):
                    return taken
                taken.append(bytes(message.payload))
        return taken

    assert await listen(clean=False) == []
    opening = replace(METER.controls["breaker_open"], verify_within_s=1, reply=None)  # type: ignore[call-arg]
    driver = line(broker, version)
    async with told_by(driver, ONE, FakeSink()):
        await driver.session(ONE["meter-1"]).write(opening, None)
        await asyncio.sleep(2.1 if version == "5" else 0)  # the message's life, which only the broker's clock ends
    assert await listen(clean=False) == []


async def test_what_came_before_a_command_proves_nothing(broker: Mosquitto) -> None:
    driver, sink = line(broker, answer_within_s=0.3), FakeSink()
    taken = lambda order: [("reply", {"id": order["id"], "code": 0})] if order["cmd"] != "report" else []  # noqa: E731
    async with breaker(broker, taken), told_by(driver, ONE, sink):
        session = driver.session(ONE["meter-1"])
        await say(broker, payload(1, breaker="open"))
        await sink.until(lambda: sink.told, "the state")
        assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 0}
        await session.write(METER.controls["breaker_open"], None)
        with pytest.raises(DeviceSilent):
            await session.read_points(["breaker_state"])


async def test_a_connection_for_one_order_takes_nothing_away(broker: Mosquitto) -> None:
    def answer(order: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return [state("closed", 5)] if order["cmd"] == "report" else [("reply", {"id": order["id"], "code": 0})]

    holder, sink, beside = line(broker), FakeSink(), line(broker, beside=True)
    async with breaker(broker, answer), told_by(holder, ONE, sink) as running:
        deaf = FakeSink(full=True)
        async with told_by(beside, ONE, deaf):
            session = beside.session(ONE["meter-1"])
            await session.write(METER.controls["breaker_close"], None)
            assert (await session.read_points(["breaker_state"])).raw == {"breaker_state": 1}
        assert (deaf.refusals, running.done()) == (0, False)
        await sink.until(lambda: 5 in numbers(sink), "the holder heard it all the same")


# a line of the registry


async def test_tls_with_a_certificate_of_ours_and_a_password(tmp_path: Path) -> None:
    authority, folder, secrets = Authority(), tmp_path / "mosquitto", tmp_path / "secrets"
    folder.mkdir()
    for name, content in zip(("server.crt", "server.key"), authority.issue("broker"), strict=True):
        (folder / name).write_bytes(content)
    (folder / "ca.crt").write_bytes(authority.pem)
    secret(secrets, "ca", authority.pem)
    secret(secrets, "other-ca", Authority().pem)
    secret(secrets, "mine", b"".join(authority.issue("ingest")))
    secret(secrets, "user", "user=ingest\npassword=p\n")
    tls = [f"{name} {{folder}}/{file}" for name, file in
           {"cafile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}.items()]  # fmt: skip
    async with Mosquitto(folder, *tls, "require_certificate true") as broker:
        endpoint = f"mqtts://127.0.0.1:{broker.port}"

        async def connect(**settings: str) -> None:
            line_ = a_line(kind="mqtt", endpoint=endpoint, credentials_ref="user", settings=settings)
            driver = open_mqtt(
                Opening(line_, SystemClock(), replace(MEANS, secrets=SecretStore(secrets)), beside=False)
            )
            async with told_by(driver, ONE, FakeSink()):
                pass

        await connect(ca="ca", certificate="mine")
        assert "u'ingest'" in broker.log()
        with pytest.raises(DeviceRefused, match="not trusted"):
            await connect(ca="other-ca", certificate="mine")
        with pytest.raises(DeviceRefused, match="not trusted"):
            await connect(certificate="mine")
        with pytest.raises((LineDown, DeviceRefused)):
            await connect(ca="ca")
        (secrets / "mine").chmod(0o644)
        with pytest.raises(DeviceRefused, match="expected 0600"):
            await connect(ca="ca", certificate="mine")


async def test_a_peer_that_never_shakes_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.drivers.mqtt_link.CONNECT_TIMEOUT_S", 0.3)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        endpoint = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        driver = open_mqtt(Opening(a_line(kind="mqtt", endpoint=endpoint), SystemClock(), MEANS, beside=False))
        with pytest.raises(LineDown, match="timed out"):
            await driver.run(ONE, FakeSink())


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"endpoint": "http://h:1"}, "expected host:port"),
        ({"endpoint": "h:0x1"}, "expected host:port"),
        ({"settings": {"verison": "5"}}, "no such setting"),
        ({"settings": {"version": "4"}}, "one of 5, 3.1.1"),
        ({"settings": {"ca": "x"}}, "mqtts"),
        ({"settings": {"receive_max": 0}}, "from 1 to 10000"),
        ({"settings": {"client_id": ""}}, "expected text"),
        ({"settings": {"subscribe": True}}, "one of all, each"),
    ],
)
def test_wrong_lines(facts: dict[str, Any], said: str) -> None:
    wrong = a_line(**{"kind": "mqtt", "endpoint": "h", **facts})
    with pytest.raises(InvalidInput, match=said) as failure:
        open_mqtt(Opening(wrong, SystemClock(), MEANS, beside=False))
    assert failure.value.message_zh


def test_addresses_that_cannot_be_in_a_topic() -> None:
    driver = MqttLine(broker=lambda: Broker("x", 1, "x"), clock=SystemClock(), max_payload_bytes=1, answer_within_s=1)
    for text in (None, "", "a/b", "+", "a#"):
        with pytest.raises(InvalidInput):
            driver.session(Address("m", text, METER))
    with pytest.raises(InvalidInput):
        driver.session(addresses(ProfileCatalogue.load().get("lx47le_125"), m="1")["m"])
