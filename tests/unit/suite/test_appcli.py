"""``wattring apps``: keys, limits from a file, opt-outs, in both languages."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from libs.suite.appcli import create_key, list_limits, list_opt_outs, put_limits
from libs.suite.words import Words

WORDS = Words(chinese=False)
LIMITS = {
    "actions": ["off", "on"], "load_ids": ["a", "b"], "tags": [], "site_ids": ["s"], "region_ids": [], "max_off": 7,
    "orders_per_hour": 60, "orders_per_day": 500,
}  # fmt: skip
ROW = {
    "caller": "key:1", "revision": 3, "changed_at": "2026-03-01T00:00:00Z", "changed_by": "user:m",
    "source": "contract 7", "limits": LIMITS,
}  # fmt: skip


class FakeSuite:
    """Answers with what it was given, and notes what was sent."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[Any] = []

    def get(self, path: str, **params: Any) -> Any:
        self.sent.append(("GET", path, params))
        return self.answer

    def post(self, path: str, body: Any = None) -> Any:
        self.sent.append(("POST", path, body))
        return self.answer

    def put(self, path: str, body: Any) -> Any:
        self.sent.append(("PUT", path, body))
        return self.answer


def test_a_key_is_shown_once_with_what_to_do_next() -> None:
    suite, said = FakeSuite({"key_id": "1", "secret": "wr_1_x"}), list[str]()
    create_key(suite, WORDS, said.append, "blue")
    assert suite.sent == [("POST", "api-keys", {"name": "blue", "scopes": ["control:app"]})]
    assert said == [
        "secret, shown this once: wr_1_x",
        "it may switch nothing yet: wattring apps set key:1 FILE --source …",
    ]


def test_limits_come_from_a_file_with_their_source(tmp_path: Path) -> None:
    file, suite, said = tmp_path / "limits.json", FakeSuite(ROW), list[str]()
    file.write_text(json.dumps(LIMITS), encoding="utf-8")
    put_limits(suite, WORDS, said.append, "key:1", file, "contract 7")
    assert suite.sent == [("PUT", "guards/apps/key:1", {"limits": LIMITS, "source": "contract 7"})]
    assert said == ["in force: key:1  3  2026-03-01T00:00:00Z  user:m  contract 7"]
    for text in ("[]", "rubbish"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(typer.BadParameter, match="expected a JSON object"):
            put_limits(suite, WORDS, said.append, "key:1", file, "x")


def test_lists() -> None:
    said: list[str] = []
    list_limits(FakeSuite([ROW]), WORDS, said.append)
    assert said[1] == "  off, on  load_ids 2  site_ids 1  max_off 7  60/h 500/d"
    said.clear()
    list_limits(FakeSuite([]), Words(chinese=True), said.append)
    assert said == ["没有应用拥有权限"]
    said.clear()
    one = {"opt_out_id": "o", "site_id": "s", "from": "1", "until": "2", "declared_by": "user:m", "reason": "exam",
           "ended_at": None}  # fmt: skip
    list_opt_outs(FakeSuite({"items": [one, one | {"ended_at": "1.5"}]}), WORDS, said.append, None)
    assert said == ["o  s  1 … 2  user:m  exam", "o  s  1 … 2  user:m  exam  ended 1.5"]
