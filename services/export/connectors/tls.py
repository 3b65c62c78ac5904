"""TLS to a destination: whom its certificate is checked against, the certificate that we show, the handshake."""

import ssl
import tempfile
from collections.abc import Mapping
from functools import cache

import httpcore

from services.export.connectors.port import BadAddress


def context_of(trust: str | None, secrets: Mapping[str, str]) -> ssl.SSLContext:
    """Return the context of a destination.

    Args:
        trust: PEM of the authorities that are believed; None: the machine's.
        secrets: With ``certificate`` and ``private_key`` (PEM) where the destination wants to see one.

    Raises:
        BadAddress: One of them cannot be read.
    """
    certificate, key = secrets.get("certificate"), secrets.get("private_key")
    if trust is None and not certificate and not key:
        return _public()
    try:
        context = ssl.create_default_context(cadata=trust)
    except (ssl.SSLError, ValueError) as exc:
        raise BadAddress("egress.trust: expected certificates in PEM") from exc
    if certificate and key:
        # The library reads certificates of our own from files only; this one is ours alone and gone at once.
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(f"{certificate}\n{key}\n")
            file.flush()
            try:
                context.load_cert_chain(file.name, password=lambda: "")
            except (ssl.SSLError, ValueError) as exc:
                raise BadAddress("secrets.certificate, secrets.private_key: cannot be read, or not a pair") from exc
    elif certificate or key:
        raise BadAddress("secrets: certificate and private_key belong together")
    return context


async def secured(
    stream: httpcore.AsyncNetworkStream, context: ssl.SSLContext, host: str, timeout_s: float
) -> httpcore.AsyncNetworkStream:
    """Return TLS over an open connection, which is closed when it does not come about.

    Raises:
        httpcore.ConnectError, httpcore.ConnectTimeout: The other side has no certificate that counts, or says nothing.
    """
    try:
        return await stream.start_tls(context, host, timeout_s)
    except BaseException:
        await stream.aclose()
        raise


@cache
def _public() -> ssl.SSLContext:
    """Return the context of all who have nothing of their own: reading the machine's authorities takes 30 ms."""
    return ssl.create_default_context()
