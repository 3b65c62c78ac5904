"""Ports for processes that are started a moment later."""

import random
import socket

import pytest

from libs.suite.ports import free_port


def test_port_is_given_once_and_never_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken, first, second = other.getsockname()[1], free_port(), free_port()
        drawn = iter([taken, first, second, first + 1, first + 2, first + 3, first + 4])
        monkeypatch.setattr(random, "randint", lambda _first, _last: next(drawn))
        assert free_port() not in (taken, first, second)
