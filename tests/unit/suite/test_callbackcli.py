"""``wattring callbacks``: who is called and how it goes, the log, the test, in both languages."""

from typing import Any

import pytest

from libs.suite.callbackcli import list_callbacks, show_log, try_one
from libs.suite.words import Words

ROW = {
    "id": "c-1", "name": "app", "owner": "key:app", "state": "active", "state_zh": "启用", "breaker_open": True,
    "waiting": 3, "error": "http://127.0.0.1:9: refused",
}  # fmt: skip


class Suite:
    """An API that answers what it was given."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, {name: value for name, value in params.items() if value is not None}))
        return self.answers.pop(0)

    def post(self, path: str, body: Any = None) -> Any:
        self.asked.append((path, body))
        return self.answers.pop(0)

    def delete(self, path: str) -> Any:
        raise AssertionError(path)


@pytest.mark.parametrize(
    ("chinese", "line"),
    [
        (False, "c-1  app  key:app  active  breaker open  3 waiting  http://127.0.0.1:9: refused"),
        (True, "c-1  app  key:app  启用  熔断  待发 3  http://127.0.0.1:9: refused"),
    ],
)
def test_each_endpoint_is_a_line(chinese: bool, line: str) -> None:
    said: list[str] = []
    list_callbacks(Suite([ROW]), Words(chinese=chinese), said.append)
    assert said == [line]


def test_nobody_is_said_too() -> None:
    said: list[str] = []
    list_callbacks(Suite([]), Words(chinese=False), said.append)
    assert said == ["nobody is called"]


def test_the_log_shows_every_attempt() -> None:
    attempt = {"at": "T1", "outcome": "failed", "status": 503, "took_s": 0.0123, "error": "the receiver answered 503"}
    row = {
        "queued_at": "T0", "type": "command.result", "resource": "load/l-1", "sequence": 7, "state": "retrying",
        "event_id": "e-1", "log": [attempt, {**attempt, "status": None, "outcome": "delivered", "error": None}],
    }  # fmt: skip
    suite, said = Suite({"items": [row], "next_cursor": None}), list[str]()
    show_log(suite, Words(chinese=False), said.append, "c-1", state="retrying", limit=5)
    assert said == [
        "T0  command.result  load/l-1 #7  retrying  e-1",
        "  T1  failed 503  0.012 s  the receiver answered 503",
        "  T1  delivered  0.012 s",
    ]
    assert suite.asked == [("callbacks/c-1/deliveries", {"state": "retrying", "limit": 5})]


@pytest.mark.parametrize(
    ("outcome", "error", "status", "words"),
    [("delivered", None, 0, "it works (0.500 s)"), ("timeout", "no answer", 1, "it does not: no answer")],
)
def test_a_test_says_what_came_of_it(outcome: str, error: str | None, status: int, words: str) -> None:
    said: list[str] = []
    suite = Suite({"outcome": outcome, "error": error, "took_s": 0.5})
    assert try_one(suite, Words(chinese=False), said.append, "c-1") == status
    assert said == [words]
