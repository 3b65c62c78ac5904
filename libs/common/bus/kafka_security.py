"""How Kafka is spoken to in confidence: TLS and SASL as the settings want them, and why a broker does not take them.

The client's library only logs why it reached no broker. So when it did not, the brokers that were named are called once
more, one by one, and what happens is said in words that name the setting to look at.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from libs.common.errors import Bilingual
from libs.common.settings import BusSettings, InvalidSettings

CALL_S = 3.0
"""A broker that is asked why is given this long. [s]"""
PREFIX = "WATTRING_BUS__"
_BROKEN = (KafkaConnectionError, KafkaError, OSError, TimeoutError)


def security(settings: BusSettings) -> dict[str, Any]:
    """Return what a client is made with, read from the files that the settings name.

    Raises:
        InvalidSettings: A file cannot be read, or is not what it should be; with the variable.
    """
    wanted: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.speaks_tls:
        wanted["ssl_context"] = _tls(settings)
    if settings.speaks_sasl and settings.sasl_password is not None:
        wanted |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return wanted


def _tls(settings: BusSettings) -> ssl.SSLContext:
    """Return a context that checks the broker's certificate and its name, and shows ours if there is one."""
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path: Path | None = getattr(settings, name)
        try:
            if path is not None:
                path.read_bytes()
        except OSError as exc:
            place = f"{PREFIX}{name.upper()}: {path}"
            raise InvalidSettings(f"{place}: {exc.strerror}", message_zh=f"{place}:{exc.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
    except ssl.SSLError:
        place = f"{PREFIX}SSL_CAFILE: {settings.ssl_cafile}"
        raise InvalidSettings(
            f"{place}: expected certificates in PEM", message_zh=f"{place}:应为 PEM 格式的证书"
        ) from None
    if settings.ssl_certfile is None:
        return context
    password = settings.ssl_password
    try:
        # A function, so that nobody is asked at a terminal for what was not given.
        context.load_cert_chain(
            settings.ssl_certfile, settings.ssl_keyfile, lambda: "" if password is None else password.get_secret_value()
        )
    except (ssl.SSLError, ValueError) as exc:
        reason = (exc.reason if isinstance(exc, ssl.SSLError) else None) or "cannot be read"
        raise InvalidSettings(
            f"{PREFIX}SSL_CERTFILE, _SSL_KEYFILE: expected a certificate and the key that belongs to it in PEM, with "
            f"_SSL_PASSWORD where the key is encrypted: {reason}",
            message_zh=f"{PREFIX}SSL_CERTFILE、_SSL_KEYFILE:应为 PEM 格式的证书及与其匹配的私钥,"
            f"私钥加密时还需 _SSL_PASSWORD:{reason}",
        ) from None
    return context


async def why_refused(settings: BusSettings) -> Bilingual | None:
    """Return why the first broker that is there at all does not take us, None when it does, or when none is there."""
    for host, port, _ in collect_hosts(settings.bootstrap_servers):
        place = f"{host}:{port}"
        try:
            async with asyncio.timeout(CALL_S):
                connection = await create_conn(host, port, **security(settings))
                try:
                    await connection.send(MetadataRequest([]))
                finally:
                    connection.close()
        except _BROKEN as exc:
            said = _in_words(settings, exc)
            if said is not None:
                return Bilingual(f"{place}: {said.english}", f"{place}:{said.chinese}")
        except ValueError:  # SCRAM proves either side to the other
            return Bilingual(f"{place}: the broker does not know our password itself", f"{place}:服务器未能证明其身份")
    return None


def _in_words(settings: BusSettings, exc: BaseException) -> Bilingual | None:
    """Return what went wrong and what to look at, None when nobody was there."""
    match exc:
        case ssl.SSLCertVerificationError():
            return Bilingual(
                f"its certificate is not trusted: {exc.verify_message}; check {PREFIX}SSL_CAFILE",
                f"服务器证书不受信任:{exc.verify_message};请检查 {PREFIX}SSL_CAFILE",
            )
        case ssl.SSLError():
            reason = exc.reason or "TLS failed"
            return Bilingual(
                f"no TLS with it: {reason}; check {PREFIX}SECURITY_PROTOCOL and _SSL_CERTFILE",
                f"TLS 握手失败:{reason};请检查 {PREFIX}SECURITY_PROTOCOL 和 _SSL_CERTFILE",
            )
        case UnsupportedSaslMechanismError():
            return Bilingual(
                f"it does not take {settings.sasl_mechanism}; check {PREFIX}SASL_MECHANISM",
                f"不支持 {settings.sasl_mechanism};请检查 {PREFIX}SASL_MECHANISM",
            )
        case IllegalSaslStateError():
            return Bilingual(
                f"it wants no SASL there; check {PREFIX}SECURITY_PROTOCOL",
                f"该端口不使用 SASL;请检查 {PREFIX}SECURITY_PROTOCOL",
            )
        case SaslAuthenticationFailed():
            return Bilingual(
                f"it refuses the user {settings.sasl_username}; check {PREFIX}SASL_USERNAME and _SASL_PASSWORD",
                f"拒绝用户 {settings.sasl_username};请检查 {PREFIX}SASL_USERNAME 和 _SASL_PASSWORD",
            )
        case KafkaConnectionError() | ConnectionResetError() | BrokenPipeError():
            return Bilingual(
                f"it ends the connection; check {PREFIX}SECURITY_PROTOCOL and _SSL_CERTFILE",
                f"服务器断开了连接;请检查 {PREFIX}SECURITY_PROTOCOL 和 _SSL_CERTFILE",
            )
    return None
