"""``wattring audit``: what it says of a chain that holds and of one that does not, in both languages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.auditchain import FIELDS, GENESIS, Head, digest_of
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from libs.suite.auditcli import export_chain, judge, list_entries, published
from libs.suite.words import Words

WORDS = Words(chinese=False)


class FakeSuite:
    """The API of a suite with so many entries in its chain."""

    def __init__(self, ring: KeyRing, number: int) -> None:
        self.chain: list[dict[str, Any]] = []
        previous = GENESIS
        for seq in range(1, number + 1):
            line = dict.fromkeys(FIELDS) | {
                "seq": seq, "entry_id": f"e-{seq}", "at": "2026-03-01T12:00:00Z", "actor": "user:li", "door": "console",
                "action": "plan.approve", "subject": "plan:1", "succeeded": seq != 2, "previous": previous,
            }  # fmt: skip
            previous = line["hash"] = digest_of(line, previous)
            self.chain.append(line)
        self.head = Head.signed(ring, "control", number, previous, FakeClock().now())
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append({"path": path, **params})
        if path == "audit":
            return {"items": [{"after": self.head.as_json()}], "next_cursor": None}
        return {"items": list(reversed(self.chain)), "next_cursor": None}

    def fetch(self, path: str, **params: Any) -> bytes:
        self.asked.append({"path": path, **params})
        return b"the file"

    def lines(self, path: str, **params: Any) -> Iterator[Any]:
        yield from self.chain
        yield {"head": self.head.as_json()}


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    KeyRing.create(tmp_path / "keys", ["control", "gateway"])
    return KeyRing.open(tmp_path / "keys", FakeClock())


def test_a_chain_that_holds_is_called_whole(ring: KeyRing) -> None:
    suite = FakeSuite(ring, 3)
    said: list[str] = []
    assert judge(suite.lines(""), published(suite), ring, WORDS, said.append) == 0
    assert said[0] == f"whole: entries 1 to 3, hash of the last {suite.head.hash}"
    assert said[1] == "published heads that agree: 1"
    said.clear()
    assert judge(suite.lines(""), (), ring, Words(chinese=True), said.append) == 0
    assert said[0].startswith("完整:第 1 至 3 条")


def test_the_first_wrong_entry_is_named(ring: KeyRing) -> None:
    suite = FakeSuite(ring, 3)
    suite.chain[1]["actor"] = "user:nobody"
    said: list[str] = []
    assert judge(suite.lines(""), (), ring, WORDS, said.append) == 1
    assert said == ["BROKEN: entry 2 was changed: its hash is another one"]
    said.clear()
    assert judge(suite.lines(""), (), ring, Words(chinese=True), said.append) == 1
    assert said == ["已损坏:第 2 条被改动:散列值不符"]


def test_an_end_that_was_cut_off_shows_against_a_head_that_was_published(ring: KeyRing) -> None:
    longer, suite = FakeSuite(ring, 4), FakeSuite(ring, 3)
    said: list[str] = []
    assert judge(suite.lines(""), [longer.head], ring, WORDS, said.append) == 1
    assert said == ["BROKEN: entry 4 is missing: head 4 was published"]


def test_a_head_of_somebody_else_counts_for_nothing(ring: KeyRing) -> None:
    suite = FakeSuite(ring, 3)
    forged = Head.signed(ring, "gateway", 9, "ab", FakeClock().now())
    said: list[str] = []
    assert judge(suite.lines(""), [forged], ring, WORDS, said.append) == 0
    suite.head = forged
    assert judge(suite.lines(""), (), ring, WORDS, said.append) == 1
    assert said[-1] == "BROKEN: the head is not signed by control"


def test_without_a_key_or_a_head_it_says_what_it_cannot_see(ring: KeyRing) -> None:
    suite = FakeSuite(ring, 3)
    said: list[str] = []
    assert judge(suite.chain[1:], (), None, WORDS, said.append) == 0
    assert said[1:] == [
        "what came before entry 2 was not looked at",
        "no signed head: whether the end is missing cannot be seen",
    ]
    said.clear()
    judge(suite.lines(""), (), None, WORDS, said.append)
    assert said[1:] == ["no key of control here: the head's signature was not looked at"]


def test_list_and_export(ring: KeyRing, tmp_path: Path) -> None:
    suite = FakeSuite(ring, 2)
    said: list[str] = []
    list_entries(suite, WORDS, said.append, actor="user:li", limit=50)
    assert said[0].endswith("user:li  console  plan.approve  plan:1  REFUSED OR FAILED")
    assert suite.asked == [{"path": "commands/audit", "actor": "user:li", "limit": 50}]
    export_chain(suite, WORDS, said.append, tmp_path / "a.csv", **{"from": None})
    assert (tmp_path / "a.csv").read_bytes() == b"the file"
    assert suite.asked[-1] == {"path": "commands/audit/export", "format": "csv", "from": None}
