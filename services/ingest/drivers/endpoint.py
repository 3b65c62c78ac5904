"""Endpoints of lines, as the registry writes them."""

from libs.common.errors import InvalidInput
from libs.common.registry.rules import split_host_port


def parse_endpoint(endpoint: str, default_port: int = 502) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port`` or ``[v6]:port``.

    Raises:
        InvalidInput: It is none of these.
    """
    try:
        return split_host_port(endpoint, default_port)
    except ValueError:
        raise InvalidInput(
            f"endpoint {endpoint!r}: expected host:port", message_zh=f"端点 {endpoint!r} 应为 主机:端口"
        ) from None
