"""A line of kind ``mqtt`` in the registry, and the driver that it means.

The endpoint is ``host:port``, ``mqtt://host:port`` or, with TLS, ``mqtts://host:port``. The line's ``settings``:

    version             "5" (default) or "3.1.1"
    client_id           default wattring-<line id>; fixed, since the broker keeps the session under it
    ca                  name of a stored secret: PEM certificates to check the broker by; default those of the system
    certificate         name of a stored secret with our certificate and its key, both PEM
    subscribe           "all" (default): a wildcard per product; "each": the topics of every device of the line
    receive_max         unacknowledged messages at most (200)
    keepalive_s         (30)
    session_s           how long the broker keeps what it could not deliver (7 days)
    timeout_s           for a device that was asked (5)
    max_payload_bytes   a longer message is rejected unread (65536)

``credentials_ref`` names a secret with ``user=`` and ``password=``.
"""

import ssl

from libs.common.errors import InvalidInput
from libs.common.secretstore import SecretStore, SecretUnusable
from services.ingest.drivers.endpoint import parse_endpoint
from services.ingest.drivers.line_settings import one_of, only, seconds, whole, words
from services.ingest.drivers.mqtt import MqttLine
from services.ingest.drivers.mqtt_link import Broker
from services.ingest.drivers.port import Opening

PORT, TLS_PORT = 1883, 8883
KNOWN = frozenset({
    "version", "client_id", "ca", "certificate", "subscribe", "receive_max", "keepalive_s", "session_s", "timeout_s",
    "max_payload_bytes",
})  # fmt: skip
MAX_CLIENT_ID = 100
DEFAULT_PAYLOAD_BYTES = 64 * 1024


def open_mqtt(opening: Opening) -> MqttLine:
    """Return the driver of a broker; secrets and certificates are read at each connection.

    Raises:
        InvalidInput: The line's endpoint or settings are wrong.
    """
    line = opening.line
    only(line, KNOWN)
    scheme, _, rest = line.endpoint.rpartition("://")
    if scheme not in ("", "mqtt", "mqtts"):
        raise InvalidInput(
            f"line {line.id}: endpoint {line.endpoint!r}: expected host:port, mqtt://host:port or mqtts://host:port",
            message_zh=f"线路 {line.id}:端点 {line.endpoint!r} 应为 主机:端口、mqtt://… 或 mqtts://…",
        )
    tls = scheme == "mqtts"
    host, port = parse_endpoint(rest, TLS_PORT if tls else PORT)
    ca, certificate = words(line, "ca"), words(line, "certificate")
    if not tls and (ca is not None or certificate is not None):
        raise InvalidInput(
            f"line {line.id}: settings.ca and settings.certificate are for endpoints mqtts://host:port",
            message_zh=f"线路 {line.id}:settings.ca 与 settings.certificate 仅用于 mqtts:// 端点",
        )
    client_id = words(line, "client_id") or f"wattring-{line.id}"
    if len(client_id) > MAX_CLIENT_ID:
        raise InvalidInput(
            f"line {line.id}: settings.client_id: expected at most {MAX_CLIENT_ID} characters",
            message_zh=f"线路 {line.id}:settings.client_id 最多 {MAX_CLIENT_ID} 个字符",
        )
    settings = line.settings or {}
    version = one_of(line, "version", settings.get("version", "5"), ("5", "3.1.1"))
    keepalive_s = whole(line, "keepalive_s", 30, least=5, most=3600)
    session_s = whole(line, "session_s", 7 * 86400, least=60, most=90 * 86400)
    receive_max = whole(line, "receive_max", 200, least=1, most=10_000)
    ref, secrets = line.credentials_ref, opening.secrets

    def broker() -> Broker:
        credentials = None if ref is None else secrets.read(ref)
        return Broker(
            host=host,
            port=port,
            client_id=client_id,
            tls=_tls(secrets, ca, certificate) if tls else None,
            user=None if credentials is None else credentials.require("user"),
            password=None if credentials is None else credentials.get("password"),
            version="3.1.1" if version == "3.1.1" else "5",
            keepalive_s=keepalive_s,
            session_s=session_s,
            receive_max=receive_max,
        )

    return MqttLine(
        broker=broker,
        clock=opening.clock,
        max_payload_bytes=whole(line, "max_payload_bytes", DEFAULT_PAYLOAD_BYTES, least=256, most=1 << 20),
        answer_within_s=seconds(line, "timeout_s", 5.0),
        each=one_of(line, "subscribe", settings.get("subscribe", "all"), ("all", "each")) == "each",
        beside=opening.beside,
    )


def _tls(secrets: SecretStore, ca: str | None, certificate: str | None) -> ssl.SSLContext:
    """Return what checks the broker and shows our certificate.

    Raises:
        SecretUnusable: A file is not there, is open to others or is no PEM.
    """
    try:
        context = ssl.create_default_context(cadata=None if ca is None else secrets.text(ca))
    except (ssl.SSLError, ValueError):
        raise SecretUnusable(
            f"secret {ca}: expected certificates in PEM", message_zh=f"密钥 {ca}:应为 PEM 格式的证书"
        ) from None
    if certificate is not None:
        path = secrets.path(certificate)
        try:
            context.load_cert_chain(path)
        except (ssl.SSLError, OSError) as exc:
            raise SecretUnusable(
                f"secret {path}: expected a certificate and its key in PEM: {exc}",
                message_zh=f"密钥文件 {path}:应为 PEM 格式的证书及其私钥:{exc}",
            ) from None
    return context
