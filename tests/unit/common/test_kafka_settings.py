"""Kafka's security as settings: what would be ignored or is lacking stops the start, and files are looked at."""

from pathlib import Path

import pytest

from libs.common.bus import open_bus
from libs.common.bus.kafka_security import security
from libs.common.clock import SystemClock
from libs.common.settings import BusSettings, InvalidSettings, load_common, shown

BUS = "WATTRING_BUS__"
SASL = {f"{BUS}SECURITY_PROTOCOL": "SASL_SSL", f"{BUS}SASL_USERNAME": "meter", f"{BUS}SASL_PASSWORD": "hunter2"}


def test_user_and_password_are_taken_and_not_shown() -> None:
    bus = load_common({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9093", **SASL}).bus
    assert "hunter2" not in f"{bus!r} {shown(bus)}"
    client = security(bus)
    assert (client["sasl_mechanism"], client["sasl_plain_password"]) == ("SCRAM-SHA-512", "hunter2")
    assert client["ssl_context"].check_hostname is True


def test_plain_text_is_what_it_was() -> None:
    assert security(BusSettings(bootstrap_servers="kafka:9092")) == {"security_protocol": "PLAINTEXT"}


@pytest.mark.parametrize(
    ("environ", "message", "message_zh"),
    [
        (
            {"SASL_USERNAME": "u", "SASL_PASSWORD": "hunter2"},
            f"{BUS}SECURITY_PROTOCOL=SASL_SSL beside {BUS}SASL_USERNAME, {BUS}SASL_PASSWORD; PLAINTEXT does not use",
            f"{BUS}SECURITY_PROTOCOL 应为 SASL_SSL",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_USERNAME": "u", "SASL_PASSWORD": "p", "SSL_CAFILE": "/ca"},
            f"{BUS}SECURITY_PROTOCOL=SASL_SSL beside {BUS}SSL_CAFILE; SASL_PLAINTEXT does not use them",
            f"配置 {BUS}SSL_CAFILE 时",
        ),
        (
            {"SSL_CERTFILE": "/cert"},
            f"{BUS}SECURITY_PROTOCOL=SSL beside {BUS}SSL_CERTFILE",
            f"{BUS}SECURITY_PROTOCOL 应为 SSL",
        ),
        (
            {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_USERNAME": "u"},
            f"{BUS}SASL_PASSWORD beside SASL_SSL",
            f"使用 SASL_SSL 时还需配置 {BUS}SASL_PASSWORD",
        ),
        (
            {"SECURITY_PROTOCOL": "SSL", "SSL_KEYFILE": "/key"},
            f"{BUS}SSL_CERTFILE beside {BUS}SSL_KEYFILE",
            f"还需配置 {BUS}SSL_CERTFILE",
        ),
        ({"SECURITY_PROTOCOL": "TLS"}, f"{BUS}SECURITY_PROTOCOL: expected 'PLAINTEXT', 'SSL'", "应为'PLAINTEXT'"),
    ],
)
def test_what_would_be_ignored_or_is_lacking_stops_the_start(
    environ: dict[str, str], message: str, message_zh: str
) -> None:
    with pytest.raises(InvalidSettings) as wrong:
        load_common({f"{BUS}{name}": value for name, value in environ.items()})
    assert message in wrong.value.message
    assert message_zh in str(wrong.value.message_zh)
    assert "hunter2" not in f"{wrong.value!r} {wrong.value.__cause__!r} {wrong.value.__context__!r}"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cafile": None}, "SSL_CAFILE: {folder}/cafile: No such file or directory"),
        ({"cafile": "no certificate"}, "SSL_CAFILE: {folder}/cafile: expected certificates in PEM"),
        ({"certfile": "nothing", "keyfile": None}, "SSL_KEYFILE: {folder}/keyfile: No such file or directory"),
        ({"certfile": "nothing"}, "SSL_CERTFILE, _SSL_KEYFILE: expected a certificate and the key that belongs to it"),
    ],
)
def test_unusable_file_ends_the_start_with_its_variable(
    files: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9093", f"{BUS}SECURITY_PROTOCOL": "SSL"}
    for name, content in files.items():
        environ[f"{BUS}SSL_{name.upper()}"] = str(tmp_path / name)
        if content is not None:
            (tmp_path / name).write_text(content)
    with pytest.raises(InvalidSettings) as wrong:
        open_bus(load_common(environ), SystemClock())
    assert wrong.value.message.startswith(BUS + message.format(folder=tmp_path))
    assert f"{BUS}SSL_" in str(wrong.value.message_zh)
