"""A line of kind ``opcua`` in the registry, and the driver that it means.

The endpoint is the server's URL, ``opc.tcp://host:port/path``. The line's ``settings``:

    security         "sign_and_encrypt" (default), "sign", both with Basic256Sha256, or "none"
    plain_password   true: the password may be sent so that others can read it (false)
    timeout_s        for one answer (5)
    read_every_s     how often everything is read besides what is told (60)

``credentials_ref`` names a secret with ``user=`` and ``password=``; without one the session is anonymous.
"""

import re

from libs.common.errors import InvalidInput
from services.ingest.drivers.line_settings import flag, one_of, only, seconds
from services.ingest.drivers.opcua import OpcUaLine
from services.ingest.drivers.opcua_link import Security, Server
from services.ingest.drivers.opcua_trust import TrustStore
from services.ingest.drivers.port import Opening

KNOWN = frozenset({"security", "plain_password", "timeout_s", "read_every_s"})
SECURITIES: tuple[Security, ...] = ("sign_and_encrypt", "sign", "none")
_URL = re.compile(r"opc\.tcp://(\[[0-9A-Fa-f:.]+\]|[^\s/:@\[\]]+):[0-9]{1,5}(/\S*)?")


def open_opcua(opening: Opening) -> OpcUaLine:
    """Return the driver of a server; passwords and certificates are read at each connection.

    Raises:
        InvalidInput: The line's endpoint or settings are wrong.
    """
    line = opening.line
    only(line, KNOWN)
    if not _URL.fullmatch(line.endpoint):
        raise InvalidInput(
            f"line {line.id}: endpoint {line.endpoint!r}: expected opc.tcp://host:port/path",
            message_zh=f"线路 {line.id}:端点 {line.endpoint!r} 应为 opc.tcp://主机:端口/路径",
        )
    wanted = one_of(line, "security", (line.settings or {}).get("security", SECURITIES[0]), SECURITIES)
    security = next(one for one in SECURITIES if one == wanted)
    plain_password, timeout_s = flag(line, "plain_password"), seconds(line, "timeout_s", 5.0)
    ref, secrets = line.credentials_ref, opening.secrets

    def server() -> Server:
        credentials = None if ref is None else secrets.read(ref)
        return Server(
            url=line.endpoint,
            security=security,
            user=None if credentials is None else credentials.require("user"),
            password=None if credentials is None else credentials.get("password"),
            plain_password=plain_password,
            timeout_s=timeout_s,
        )

    return OpcUaLine(
        server=server,
        trust=TrustStore(opening.means.folder / "opcua"),
        clock=opening.clock,
        read_every_s=seconds(line, "read_every_s", 60.0, most=3600),
        beside=opening.beside,
    )
