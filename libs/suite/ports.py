"""Ports for processes that are started here, and started again on the same port after they were killed."""

import random
import socket

FIRST, LAST = 15_000, 31_999
"""Below the range from which the system numbers outgoing connections: one of those could take the port meanwhile."""
ATTEMPTS = 1_000
_given: set[int] = set()
"""Nobody listens yet on a port that was given a moment ago; a second one who asks must not get it too."""


def free_port() -> int:
    """Return a port of loopback that nobody has now, and that this process was not given before.

    Raises:
        RuntimeError: There is none.
    """
    for _ in range(ATTEMPTS):
        port = random.randint(FIRST, LAST)  # noqa: S311 - keeps those who look at the same time apart
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")
