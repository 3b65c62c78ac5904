"""TLS and SASL with a real broker: what is taken, what is refused and how that is said, and that no secret leaks."""

import asyncio
import dataclasses
import gc
import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import BusUnavailable, Message, StartAt, TopicPartition, TopicSpec
from libs.common.clock import SystemClock
from libs.common.settings import BusSettings
from libs.suite.kafka_node import KafkaNode, KafkaNodeError
from libs.suite.ports import free_port
from tests.conftest import missing

pytestmark = [
    pytest.mark.integration,
    pytest.mark.kafka,
    # A connection whose other side does not say goodbye over TLS is still closing when a test's loop ends.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

USER = "wattring"
SECRETS = {"SCRAM-SHA-512": "told-to-nobody-1", "PLAIN": "told-to-nobody-2"}
KEY_PASSWORD = "told-to-nobody-3"
VALID_FOR = timedelta(days=2)


@dataclasses.dataclass(frozen=True)
class Authority:
    """Signs certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = (
            _begun(named, named, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(self, name: str, path: Path, password: str | None = None) -> Path:
        """Write a key and its certificate for 127.0.0.1 into one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            _begun(named, self.certificate.subject, key)
            .add_extension(address, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        locked = (
            serialization.NoEncryption()
            if password is None
            else serialization.BestAvailableEncryption(password.encode())
        )
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return path


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + VALID_FOR)
    )


@dataclasses.dataclass(frozen=True)
class Secured:
    """A node with a port for each way to speak to it."""

    ports: Mapping[str, int]
    folder: Path

    def settings(self, protocol: str, *, at: str | None = None, **changed: Any) -> BusSettings:
        """Return the settings that are right for a protocol, and what is to be wrong with them."""
        right: dict[str, Any] = {
            "bootstrap_servers": f"127.0.0.1:{self.ports[at or protocol]}",
            "security_protocol": protocol,
            "session_timeout_s": 6.0,
        }
        if "SSL" in protocol:
            right["ssl_cafile"] = self.folder / "ca.pem"
        if protocol == "SSL":
            right |= {"ssl_certfile": self.folder / "client.pem", "ssl_password": KEY_PASSWORD}
        if "SASL" in protocol:
            mechanism = changed.get("sasl_mechanism", "SCRAM-SHA-512")
            right |= {"sasl_username": USER, "sasl_password": SECRETS.get(mechanism, "x"), "sasl_mechanism": mechanism}
        wanted = {name: value for name, value in (right | changed).items() if value is not None}
        return BusSettings.model_validate(wanted)


@pytest.fixture(autouse=True)
def _left_connections() -> None:
    """Collect what the test before has left, so that no test elsewhere is warned of it."""
    gc.collect()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A real node that listens in every way."""
    folder = tmp_path_factory.mktemp("secured")
    ours, strange = Authority.create("ours"), Authority.create("a stranger's")
    ours.write(folder / "ca.pem")
    strange.write(folder / "strange.pem")
    ours.issue("broker", folder / "broker.pem")
    ours.issue("wattring", folder / "client.pem", KEY_PASSWORD)
    ports = {name: free_port() for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")}
    controller = free_port()
    clients = ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())
    module = "org.apache.kafka.common.security"
    lines = [
        f"listeners={clients},CONTROLLER://127.0.0.1:{controller}",
        f"advertised.listeners={clients}",
        f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,{','.join(f'{name}:{name}' for name in ports)}",
        "inter.broker.listener.name=PLAINTEXT",
        "ssl.keystore.type=PEM",
        f"ssl.keystore.location={folder}/broker.pem",
        "ssl.truststore.type=PEM",
        f"ssl.truststore.location={folder}/ca.pem",
        "listener.name.ssl.ssl.client.auth=required",
        f"sasl.enabled.mechanisms={','.join(SECRETS)}",
    ]
    for name in ("sasl_ssl", "sasl_plaintext"):
        users = f'user_{USER}="{SECRETS["PLAIN"]}"'
        lines.append(f"listener.name.{name}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {users};")
        scram = f"listener.name.{name}.scram-sha-512.sasl.jaas.config"
        lines.append(f"{scram}={module}.scram.ScramLoginModule required;")
    node = KafkaNode(
        folder / "kafka",
        "-XX:TieredStopAtLevel=1",
        settings="\n".join(lines) + "\n",
        format_options=f"--add-scram SCRAM-SHA-512=[name={USER},password={SECRETS['SCRAM-SHA-512']}]",
        port=ports["PLAINTEXT"],
        controller_port=controller,
    )
    try:
        node.start()
    except KafkaNodeError as exc:
        missing(f"Kafka: {exc.message}")
    try:
        yield Secured(ports, folder)
    finally:
        node.stop()
        gc.collect()


class Everything:
    """A member that reads from the beginning."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """Forget nothing."""


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SSL", None),
        ("SASL_SSL", "SCRAM-SHA-512"),
        ("SASL_SSL", "PLAIN"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
    ],
)
async def test_everything_of_the_bus_goes_over_a_secured_connection(
    secured: Secured, protocol: str, mechanism: str | None
) -> None:
    topic = f"secured.{protocol}.{mechanism}".lower().replace("_", "-")
    settings = secured.settings(protocol, **({"sasl_mechanism": mechanism} if mechanism else {}))
    bus = KafkaBus(settings, SystemClock())
    await bus.start()
    try:
        await bus.ensure_topics([TopicSpec(topic, partitions=1)])
        await bus.publish([Message(topic, "site", b'"told"')], timeout_s=20)
        async with bus.tail([topic], StartAt(beginning=True)) as tail:
            assert [one.value for one in await _until_some(tail)] == [b'"told"']
        async with bus.member(f"g-{topic}", [topic], Everything(), member_id="m") as member:
            assert [one.value for one in await _until_some(member)] == [b'"told"']
        await bus.check()
    finally:
        await bus.stop()


async def _until_some(reader: Any) -> list[Any]:
    async with asyncio.timeout(60):
        while not (found := await reader.fetch(max_messages=10, timeout_s=1.0)):
            pass
    return list(found)


WRONG: Mapping[str, tuple[str, dict[str, Any], str]] = {
    "another authority": ("SASL_SSL", {"ssl_cafile": "strange.pem"}, "check WATTRING_BUS__SSL_CAFILE"),
    "wrong password": ("SASL_SSL", {"sasl_password": "wrong-and-told-to-nobody"}, "it refuses the user wattring"),
    "no such mechanism": ("SASL_SSL", {"sasl_mechanism": "SCRAM-SHA-256"}, "check WATTRING_BUS__SASL_MECHANISM"),
    "no certificate of ours": (
        "SSL", {"ssl_certfile": None, "ssl_password": None}, "check WATTRING_BUS__SECURITY_PROTOCOL and _SSL_CERTFILE",
    ),
    "no TLS where it is wanted": ("PLAINTEXT", {"at": "SSL"}, "check WATTRING_BUS__SECURITY_PROTOCOL"),
    "TLS where there is none": ("SSL", {"at": "PLAINTEXT"}, "check WATTRING_BUS__SECURITY_PROTOCOL"),
    "no password where it is wanted": ("PLAINTEXT", {"at": "SASL_PLAINTEXT"}, "check WATTRING_BUS__SECURITY_PROTOCOL"),
    "a password where none is wanted": ("SASL_PLAINTEXT", {"at": "PLAINTEXT"}, "check WATTRING_BUS__SECURITY_PROTOCOL"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", list(WRONG))
async def test_refusal_names_the_broker_and_the_setting_to_look_at(secured: Secured, wrong: str) -> None:
    protocol, changed, said = WRONG[wrong]
    if "ssl_cafile" in changed:
        changed = {**changed, "ssl_cafile": secured.folder / changed["ssl_cafile"]}
    settings = secured.settings(protocol, **changed)
    bus = KafkaBus(settings, SystemClock())
    try:
        with pytest.raises(BusUnavailable) as refused:
            await bus.start()
    finally:
        await bus.stop()
    assert refused.value.message.startswith(f"Kafka, {settings.bootstrap_servers}: ")
    assert said in refused.value.message
    assert "请检查 WATTRING_BUS__" in (refused.value.message_zh or "")
    assert "told-to-nobody" not in f"{refused.value!r} {refused.value.message_zh}"


@pytest.mark.postgres
@pytest.mark.parametrize("mechanism", list(SECRETS))
async def test_process_takes_the_password_from_a_file_and_logs_none(
    secured: Secured, empty_postgres_url: str, tmp_path: Path, mechanism: str
) -> None:
    """The step before a service makes the topics as the user; at DEBUG the library would log what PLAIN sends."""
    secret = tmp_path / "password"
    secret.write_text(f"{SECRETS[mechanism]}\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WATTRING_", "KAFKA_"))}
    environ = {
        "DATABASE_URL": empty_postgres_url,
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{secured.ports['SASL_SSL']}",
        "WATTRING_BUS__SECURITY_PROTOCOL": "SASL_SSL",
        "WATTRING_BUS__SSL_CAFILE": str(secured.folder / "ca.pem"),
        "WATTRING_BUS__SASL_MECHANISM": mechanism,
        "WATTRING_BUS__SASL_USERNAME": USER,
        "WATTRING_BUS__SASL_PASSWORD_FILE": str(secret),
        "LOG_LEVEL": "DEBUG",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.common.prepare", "bus", env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert b"told-to-nobody" not in said
