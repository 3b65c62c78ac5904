"""Destinations that we did not write: mosquitto, Kafka, PostgreSQL and OpenSSH are told batches, once and again."""

import asyncio
import csv
import getpass
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.outgoing import AddressGuard
from libs.suite.kafka_node import KafkaNode, KafkaNodeError
from libs.suite.ports import free_port
from services.export.connectors.factory import connector_of
from services.export.connectors.port import BadAddress
from services.export.domain.callbacks import Outcome, Verdict
from services.export.domain.feeds import Destination, DestinationKind, Egress, Format
from services.export.domain.rendering import Batch
from services.export.domain.rows import Tally, tally_of
from tests.conftest import missing
from tests.integration.export.test_export_file_server import centre as implicit_tls
from tests.peers.certificates import Authority
from tests.peers.file_servers import PASSWORD, USER, proftpd, sshd
from tests.peers.mosquitto import Mosquitto
from tests.peers.proxies import postgres_by_tcp, proxy, socks_by_ssh

pytestmark = pytest.mark.integration

NOW = datetime(2026, 3, 8, tzinfo=UTC)
LINES = (
    "s-1\tm-1\tvoltage_a\t2026-03-08T06:02:11.000000Z\t220.5\t",
    "s-1\tm-2\tvoltage_a\t2026-03-08T06:02:12.000000Z\t\tstale",
    "s-1\tm-1\tvoltage_b\t2026-03-08T06:02:11.000000Z\t0.1\t",
)
BATCH = Batch("feed-1", 7, tally_of(LINES).hash, LINES)
TRUSTED = Authority().pem.decode()
LOOPBACK = AddressGuard(["127.0.0.0/8", "localhost"], setting="X")


def destination(kind: DestinationKind, address: Mapping[str, Any], **more: Any) -> Destination:
    return Destination(
        id="d", feed_id="feed-1", name="d", kind=kind, address=address, created_at=NOW, updated_at=NOW, **more
    )


async def told(
    place: Destination, secrets: Mapping[str, str] | None = None, *, times: int = 1, guard: AddressGuard = LOOPBACK
) -> list[Outcome]:
    connector = connector_of(place, secrets or {}, guard=guard, clock=SystemClock())
    try:
        return [await connector.tell(BATCH) for _ in range(times)]
    finally:
        await connector.close()


# ---- MQTT ---------------------------------------------------------------------------------------------


class TestMqtt:
    async def test_a_message_for_each_device_is_acknowledged(self, tmp_path: Path) -> None:
        async with (
            Mosquitto(tmp_path / "m") as broker,
            aiomqtt.Client("127.0.0.1", broker.port) as receiver,
            proxy("socks5") as between,
        ):
            await receiver.subscribe("out/#", qos=1)
            place = destination(
                DestinationKind.MQTT,
                {"host": "127.0.0.1", "port": broker.port, "topic": "out/{device_id}", "client_id": "wattring"},
                format=Format(columns={"p": "point", "v": "value"}),
                egress=Egress(proxy=between.url),
            )
            assert [each.verdict for each in await told(place)] == [Verdict.DELIVERED]
            assert between.asked == [f"127.0.0.1:{broker.port}"]
            found = {}
            async with asyncio.timeout(20):
                async for message in receiver.messages:
                    assert isinstance(message.payload, bytes)
                    found[str(message.topic)] = json.loads(message.payload)["rows"]
                    if len(found) == 2:
                        break
        assert found == {
            "out/m-1": [{"p": "voltage_a", "v": 220.5}, {"p": "voltage_b", "v": 0.1}],
            "out/m-2": [{"p": "voltage_a", "v": None}],
        }

    async def test_tls_by_its_own_trust_store(self, tmp_path: Path) -> None:
        authority, folder = Authority(), tmp_path / "m"
        folder.mkdir()
        certificate, key = authority.issue("broker")
        for name, content in {"ca": authority.pem, "crt": certificate, "key": key}.items():
            (folder / name).write_bytes(content)
        tls = ["cafile {folder}/ca", "certfile {folder}/crt", "keyfile {folder}/key"]
        async with Mosquitto(folder, *tls) as broker:
            address = {"host": "127.0.0.1", "port": broker.port, "topic": "out", "tls": True}
            trusted = destination(DestinationKind.MQTT, address, egress=Egress(trust=authority.pem.decode()))
            public = destination(DestinationKind.MQTT, address)
            assert [each.verdict for each in await told(trusted)] == [Verdict.DELIVERED]
            (refused,) = await told(public)
        assert refused.verdict is Verdict.FAILED
        assert "certificate" in (refused.error or "").lower()

    async def test_a_broker_that_lets_nobody_in_or_is_not_there(self, tmp_path: Path) -> None:
        async with Mosquitto(tmp_path / "m", anonymous=False) as broker:
            place = destination(DestinationKind.MQTT, {"host": "127.0.0.1", "port": broker.port, "topic": "out"})
            (refused,) = await told(place, {"username": "u", "password": "of-mine"})
        (gone,) = await told(place)
        (inside,) = await told(place, guard=AddressGuard((), setting="X"))
        assert [each.verdict for each in (refused, gone, inside)] == [
            Verdict.FAILED, Verdict.FAILED, Verdict.NOT_ALLOWED,
        ]  # fmt: skip
        assert "of-mine" not in (refused.error or "")


# ---- Kafka --------------------------------------------------------------------------------------------


@contextmanager
def _secured_node(folder: Path, authority: Authority) -> Iterator[int]:
    """Give the port of a real broker that is spoken to over TLS and with an account."""
    (folder / "broker.pem").write_bytes(b"".join(reversed(authority.issue("broker"))))
    inside, port, controller = free_port(), free_port(), free_port()
    places = f"PLAINTEXT://127.0.0.1:{inside},SASL_SSL://127.0.0.1:{port}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    lines = [
        f"listeners={places},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners={places}",
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name=PLAINTEXT",
        "auto.create.topics.enable=true",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={folder}/broker.pem",
        "sasl.enabled.mechanisms=PLAIN",
        f'listener.name.sasl_ssl.plain.sasl.jaas.config={login} required user_{USER}="{PASSWORD}";',
    ]
    settings = "\n".join(lines) + "\n"
    node = KafkaNode(
        folder / "kafka", "-XX:TieredStopAtLevel=1", settings=settings, port=inside, controller_port=controller
    )
    try:
        node.start()
    except KafkaNodeError as exc:
        missing(f"Kafka: {exc.message}")
    try:
        yield port
    finally:
        node.stop()


@pytest.mark.kafka
class TestKafka:
    @pytest.mark.parametrize("scheme", [None, "socks5", "http"])
    async def test_messages_by_device_with_number_and_hash(self, kafka_bootstrap: str, scheme: str | None) -> None:
        topic = f"feed-{new_id()}"
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, 1, 1)])
        finally:
            await admin.close()
        async with proxy(scheme or "http") as between:
            place = destination(
                DestinationKind.KAFKA, {"bootstrap": [kafka_bootstrap], "topic": topic, "key": "device_id"},
                format=Format(kind="ndjson"),
                egress=Egress(proxy=between.url, source_address="127.0.0.2") if scheme else Egress(),
            )  # fmt: skip
            outcomes = await told(place, times=2)
        broker = f"127.0.0.1:{kafka_bootstrap.rpartition(':')[2]}"
        assert set(between.asked) == ({broker} if scheme else set())
        assert len(between.asked) > 1 or not scheme  # by name at first, then whom the cluster has named
        assert set(between.callers) == ({"127.0.0.2"} if scheme else set())
        assert [each.verdict for each in outcomes] == [Verdict.DELIVERED, Verdict.DELIVERED], outcomes
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            async with asyncio.timeout(30):
                found = [await consumer.getone() for _ in range(4)]
        finally:
            await consumer.stop()
        assert [record.key for record in found] == [b"m-1", b"m-2", b"m-1", b"m-2"]
        assert len(found[0].value.decode().splitlines()) == 2
        assert dict(found[0].headers) == {
            "wattring-feed": b"feed-1", "wattring-batch": b"7", "wattring-hash": BATCH.hash.encode(),
        }  # fmt: skip

    async def test_tls_with_an_account_through_a_proxy(self, tmp_path: Path) -> None:
        authority = Authority()
        async with proxy("socks5") as between:
            with _secured_node(tmp_path, authority) as port:

                async def told_to(host: str, password: str, trust: str) -> Outcome:
                    place = destination(
                        DestinationKind.KAFKA,
                        {"bootstrap": [f"{host}:{port}"], "topic": "t", "tls": True, "sasl": "PLAIN"},
                        egress=Egress(proxy=between.url, trust=trust), timeout_s=60.0,
                    )  # fmt: skip
                    [found] = await told(place, {"username": USER, "password": password})
                    return found

                trust = authority.pem.decode()
                found = await told_to("127.0.0.1", PASSWORD, trust)
                assert found.verdict is Verdict.DELIVERED, found.error
                refused = [
                    await told_to("127.0.0.1", "another", trust),
                    await told_to("localhost", PASSWORD, trust),  # the certificate is of 127.0.0.1
                    await told_to("127.0.0.1", PASSWORD, TRUSTED),
                ]
        assert [each.verdict for each in refused] == [Verdict.FAILED] * 3, refused
        assert set(between.asked) == {f"127.0.0.1:{port}"}

    async def test_nobody_there_and_inside(self) -> None:
        place = destination(
            DestinationKind.KAFKA, {"bootstrap": ["127.0.0.1:1"], "topic": "t"}, timeout_s=5.0
        )  # fmt: skip
        (gone,) = await told(place)
        (inside,) = await told(place, guard=AddressGuard((), setting="X"))
        async with proxy("socks5", blunder=b"\x05\xff") as between:
            behind = destination(
                DestinationKind.KAFKA, {"bootstrap": ["127.0.0.1:1"], "topic": "t"}, timeout_s=5.0,
                egress=Egress(proxy=between.url),
            )  # fmt: skip
            (refused,) = await told(behind)
        assert (refused.verdict, between.asked) == (Verdict.FAILED, [])
        assert "proxy" in (refused.error or "")
        assert (gone.verdict in (Verdict.FAILED, Verdict.TIMEOUT), inside.verdict) == (True, Verdict.NOT_ALLOWED)


# ---- PostgreSQL ---------------------------------------------------------------------------------------


@pytest.mark.postgres
class TestPostgresql:
    COLUMNS = {"meter": "device_id", "item": "point", "at": "source_time", "v": "value", "src": "=wat'tring"}  # noqa: RUF012

    async def test_a_batch_is_in_their_tables_once_and_they_make_the_same_tally(self, empty_postgres_url: str) -> None:
        url = urlsplit(empty_postgres_url)
        theirs = await asyncpg.connect(empty_postgres_url)
        try:
            await theirs.execute(
                """
                create schema "in";
                create table "in"."Rows" (meter text, item text, at timestamptz, v numeric, src text);
                create table batches (feed text, batch bigint, rows integer, hash text, unique (feed, batch));
                """
            )
            async with proxy("http") as between, postgres_by_tcp(empty_postgres_url) as (host, port):
                place = destination(
                    DestinationKind.POSTGRESQL,
                    {"host": host, "port": port, "database": url.path.strip("/"), "user": url.username,
                     "table": "in.Rows", "batches": "batches", "tls": False},
                    format=Format(columns=self.COLUMNS), egress=Egress(proxy=between.url),
                )  # fmt: skip
                outcomes = await told(place, {"password": url.password or ""}, times=2)
                assert [each.verdict for each in outcomes] == [Verdict.DELIVERED] * 2, outcomes
                assert len(between.asked) == 2
            rows = await theirs.fetch(
                """
                select concat_ws(E'\\t', 's-1', meter, item,
                                 to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                                 coalesce(trim_scale(v)::text, ''), '') as line, src
                  from "in"."Rows"
                """
            )
            assert [dict(row) for row in await theirs.fetch("select * from batches")] == [
                {"feed": "feed-1", "batch": 7, "rows": 3, "hash": BATCH.hash}
            ]
        finally:
            await theirs.close()
        assert {row["src"] for row in rows} == {"wat'tring"}
        assert tally_of(row["line"] for row in rows) == tally_of(line.replace("stale", "") for line in LINES)

    async def test_a_table_that_is_not_there_is_a_refusal_that_changes_nothing(self, empty_postgres_url: str) -> None:
        url = urlsplit(empty_postgres_url)
        theirs = await asyncpg.connect(empty_postgres_url)
        try:
            await theirs.execute("create table batches (feed text, batch bigint, rows integer, hash text)")
            async with postgres_by_tcp(empty_postgres_url) as (host, port):
                address = {
                    "host": host, "port": port, "database": url.path.strip("/"), "user": url.username,
                    "table": "nowhere", "batches": "batches", "tls": False,
                }  # fmt: skip
                place = destination(DestinationKind.POSTGRESQL, address, format=Format(columns=self.COLUMNS))
                (outcome,) = await told(place, {"password": url.password or ""})
                assert outcome.verdict is Verdict.REFUSED
                assert "nowhere" in (outcome.error or "")
                assert await theirs.fetchval("select count(*) from batches") == 0
                (no_tls,) = await told(destination(DestinationKind.POSTGRESQL, {**address, "tls": True}))
            assert no_tls.verdict is Verdict.FAILED
            assert "speaks no TLS" in (no_tls.error or "")
        finally:
            await theirs.close()


# ---- files --------------------------------------------------------------------------------------------


class TestFiles:
    async def test_a_file_per_batch_by_sftp_replaces_itself(self, tmp_path: Path) -> None:
        folder = tmp_path / "of-the-party"
        async with sshd(tmp_path / "sshd") as server:
            place = destination(
                DestinationKind.FILE,
                {"url": f"sftp://127.0.0.1:{server.port}{folder}", "host_key": server.host_key, "name": "{batch}"},
                format=Format(kind="csv"), timeout_s=30.0,
            )  # fmt: skip
            account = {"username": getpass.getuser(), "private_key": server.client_key or ""}
            outcomes = await told(place, account, times=2)
            assert [each.verdict for each in outcomes] == [Verdict.DELIVERED] * 2, outcomes
        assert [file.name for file in folder.iterdir()] == ["000000000007.csv"]
        with (folder / "000000000007.csv").open(newline="") as file:
            assert [row["device_id"] for row in csv.DictReader(file)] == ["m-1", "m-2", "m-1"]

    @pytest.mark.parametrize("scheme", ["socks5", "http"])
    async def test_sftp_goes_through_a_proxy_and_from_an_address(self, scheme: str, tmp_path: Path) -> None:
        folder = tmp_path / "of-the-party"
        async with sshd(tmp_path / "sshd") as server, proxy(scheme, account=("me", "secret-of-mine")) as between:
            address = {"url": f"sftp://127.0.0.1:{server.port}{folder}", "host_key": server.host_key, "name": "{batch}"}
            own = {"username": getpass.getuser(), "private_key": server.client_key or ""}
            account = {**own, "proxy_username": "me", "proxy_password": "secret-of-mine"}

            async def outcome(secrets: Mapping[str, str], **egress: str) -> Outcome:
                place = destination(DestinationKind.FILE, address, timeout_s=30.0, egress=Egress(**egress))
                [found] = await told(place, secrets)
                return found

            direct = await outcome(own, source_address="127.0.0.5")
            assert (direct.verdict, between.asked) == (Verdict.DELIVERED, [])
            through = await outcome(account, proxy=between.url, source_address="127.0.0.6")
            assert through.verdict is Verdict.DELIVERED, through
            assert (between.asked, between.callers) == ([f"127.0.0.1:{server.port}"], ["127.0.0.6"])
            stranger = await outcome({**account, "proxy_password": "another-one"}, proxy=between.url)
            assert stranger.verdict is not Verdict.DELIVERED
            assert between.url in (stranger.error or "")
            forged = {
                **address,
                "host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7Hn1S7m7VQZ6F0c0o0q2Zr2m2tqkQ8mQm0n3b5m9aB",
            }
            place = destination(DestinationKind.FILE, forged, timeout_s=30.0, egress=Egress(proxy=between.url))
            [refused] = await told(place, account)
            assert refused.verdict is not Verdict.DELIVERED, "the key is checked behind a proxy too"
        assert [file.name for file in folder.iterdir()] == ["000000000007.json"]

    @pytest.mark.parametrize("scheme", ["socks5", "http"])
    async def test_ftp_goes_through_a_proxy_and_from_an_address_with_both_its_connections(
        self, scheme: str, tmp_path: Path
    ) -> None:
        async with (
            proftpd(tmp_path / "centre") as server,
            proxy(scheme, account=("me", "secret-of-mine")) as between,
        ):
            address = {"url": f"ftp://127.0.0.1:{server.port}/feeds/here", "name": "{batch}"}
            own = {"username": USER, "password": PASSWORD}
            account = {**own, "proxy_username": "me", "proxy_password": "secret-of-mine"}

            async def outcomes(secrets: Mapping[str, str], **egress: str) -> list[Outcome]:
                place = destination(DestinationKind.FILE, address, timeout_s=30.0, egress=Egress(**egress))
                return await told(place, secrets, times=2)

            direct = await outcomes(own, source_address="127.0.0.5")
            assert [each.verdict for each in direct] == [Verdict.DELIVERED] * 2, direct
            assert between.asked == []
            through = await outcomes(account, proxy=between.url, source_address="127.0.0.6")
            assert [each.verdict for each in through] == [Verdict.DELIVERED] * 2, through
            # Each time one to be told what to do, and one for the file, where the server opened a port for it.
            first, data, again, data_again = between.asked
            assert first == again == f"127.0.0.1:{server.port}"
            assert {place.rpartition(":")[0] for place in (data, data_again)} == {"127.0.0.1"}
            assert first not in (data, data_again)
            assert between.callers == ["127.0.0.6"] * 4
            stranger, _ = await outcomes({**account, "proxy_password": "another-one"}, proxy=between.url)
            assert stranger.verdict is not Verdict.DELIVERED
            assert between.url in (stranger.error or "")
            [file] = (server.root / "feeds" / "here").iterdir()
        assert file.name == "000000000007.json"
        assert len(json.loads(file.read_bytes())["rows"]) == len(LINES)

    async def test_ftp_goes_through_a_socks_server_and_to_a_file_server_that_we_did_not_write(
        self, tmp_path: Path
    ) -> None:
        async with proftpd(tmp_path / "centre") as server, socks_by_ssh() as between:
            place = destination(
                DestinationKind.FILE,
                {"url": f"ftp://127.0.0.1:{server.port}/here", "name": "{batch}"},
                timeout_s=30.0,
                egress=Egress(proxy=between),
            )
            [outcome] = await told(place, {"username": USER, "password": PASSWORD})
            assert outcome.verdict is Verdict.DELIVERED, outcome
            assert [file.name for file in (server.root / "here").iterdir()] == ["000000000007.json"]

    async def test_ftp_over_tls_shows_its_certificate_behind_a_proxy_too(self, tmp_path: Path) -> None:
        authority = Authority()
        certificate = tmp_path / "server.pem"
        certificate.write_bytes(b"".join(authority.issue("centre.test")))
        root = tmp_path / "root"
        root.mkdir()
        with implicit_tls(root, certificate) as port:
            async with proxy("socks5") as between:
                address = {"url": f"ftps://127.0.0.1:{port}/inbox", "name": "{batch}"}
                account = {"username": "scftp", "password": "of-the-unit"}

                async def verdict(trust: str) -> Verdict:
                    egress = Egress(proxy=between.url, trust=trust)
                    place = destination(DestinationKind.FILE, address, timeout_s=30.0, egress=egress)
                    [found] = await told(place, account)
                    return found.verdict

                assert await verdict(TRUSTED) is not Verdict.DELIVERED
                assert len(between.asked) == 1
                assert await verdict(authority.pem.decode()) is Verdict.DELIVERED
                assert len(between.asked) == 3
        [file] = (root / "inbox").iterdir()
        assert len(json.loads(file.read_bytes())["rows"]) == len(LINES)


# ---- addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "address", "egress", "expected"),
    [
        ("mqtt", {"host": "x", "topic": "a/#"}, {}, "address.topic"),
        ("mqtt", {"host": "x", "topic": "a/{password}"}, {}, "address.topic"),
        ("mqtt", {"host": "x", "topic": "a", "qos": 0}, {}, "address.qos"),
        ("mqtt", {"host": "x", "topic": "a", "port": 0}, {}, "address.port"),
        ("kafka", {"bootstrap": "x:1", "topic": "a"}, {}, "address.bootstrap"),
        ("kafka", {"bootstrap": ["x:1"], "topic": "a", "key": "value"}, {}, "address.key"),
        ("kafka", {"bootstrap": ["x:1"], "topic": "a", "sasl": "PLAIN"}, {}, "secrets.username"),
        ("kafka", {"bootstrap": ["x:1"], "topic": "a"}, {"proxy": "gopher://p"}, "egress"),
        (
            "postgresql",
            {"host": "x", "database": "d", "user": "u", "table": "a.b.c", "batches": "b"},
            {},
            "address.table",
        ),
        ("file", {"url": "http://x/", "name": "{batch}"}, {}, "address.url"),
        ("file", {"url": "ftp://x/", "name": "../{batch}"}, {}, "address.name"),
        ("file", {"url": "ftp://x/", "name": "{batch.__class__}"}, {}, "address.name"),
        ("file", {"url": "ftp://x/", "name": "one"}, {}, "address.name"),
        ("file", {"url": "ftp://x/"}, {"trust": TRUSTED}, "egress.trust: only FTP over TLS"),
        ("file", {"url": "ftps://x/"}, {"trust": "no PEM"}, "egress.trust"),
        ("kafka", {"bootstrap": ["x:1"], "topic": "a"}, {"source_address": "nowhere"}, "egress"),
    ],
)
def test_an_address_that_cannot_be_used_says_which_field(
    kind: str, address: dict[str, Any], egress: dict[str, str], expected: str
) -> None:
    place = destination(DestinationKind(kind), address, egress=Egress(**egress))
    with pytest.raises(BadAddress, match=re.escape(expected)):
        connector_of(place, {}, guard=LOOPBACK, clock=SystemClock())


def test_the_recipe_in_the_readme_makes_the_same_tally() -> None:
    readme = (Path(__file__).parents[3] / "services" / "export" / "README.md").read_text(encoding="utf-8")
    recipe = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "def tally(" in block)
    names: dict[str, Any] = {}
    exec(recipe, names)
    found = names["tally"]([tuple(line.split("\t")) for line in LINES])
    assert Tally.of_document(found) == tally_of(LINES)
