"""``wattring attestations``: what it says of a log that holds and of one that does not; the verifier that it writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from libs.common.clock import SystemClock
from libs.common.tokens import KeyRing
from libs.suite import attestcli
from libs.suite.attestcli import look, look_at_books, trees_of, write
from libs.suite.cli import build
from libs.suite.words import Words

ENGLISH, CHINESE = Words(chinese=False), Words(chinese=True)


class FakeSuite:
    """The API of a suite with a log of three days."""

    def __init__(self, faults: dict[tuple[str, int], list[dict[str, Any]]] | None = None) -> None:
        self.days = {"2026-03-01": 7000, "2026-03-02": 10, "2026-03-04": 1}
        self.faults = faults or {}
        self.strays: list[dict[str, Any]] = []

    def get(self, path: str, **params: Any) -> Any:
        if path == "attestations/heads":
            heads = [
                {"tree": tree, "size": size // 2 + half * size}
                for tree, size in self.days.items()
                if params["from"] <= tree <= params["to"]
                for half in (0, 1)
            ]
            return heads[: params["limit"]]
        if path == "attestations/check/books":
            after = params["after"]
            return {"circuits": 10, "next": None if after else "c-9", "faults": self.strays if after else []}
        size, first = self.days[params["tree"]], params["first"]
        end = min(first + 5120, size)
        faults = self.faults.get((params["tree"], first), [])
        return {"first": first, "end": end, "size": size, "next": end if end < size else None, "faults": faults}


@pytest.mark.parametrize("at_once", [2, 3, 4, 1000])
def test_every_tree_is_found_whatever_fits_into_one_answer(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(attestcli, "HEADS_AT_ONCE", at_once)
    assert trees_of(FakeSuite(), "2026-01-01", "2026-12-31") == ["2026-03-01", "2026-03-02", "2026-03-04"]
    assert trees_of(FakeSuite(), "2026-03-02", "2026-03-03") == ["2026-03-02"]
    assert trees_of(FakeSuite(), "2027-01-01", "2027-12-31") == []


def test_a_whole_log_is_looked_at_to_its_end_and_a_fault_is_named() -> None:
    said: list[str] = []
    assert look(FakeSuite(), ENGLISH, said.append, "2026-01-01", "2026-12-31") == 0
    assert said == ["3 trees, 7011 leaves, 0 faults"]
    fault = {
        "leaf": "2026-03-01/6000", "subject": "circuit:c-1", "message": "it is no longer what was committed",
        "message_zh": "与当时提交的内容不符",
    }  # fmt: skip
    damaged = FakeSuite({("2026-03-01", 5120): [fault]})
    assert look(damaged, ENGLISH, said.append, "2026-01-01", "2026-12-31") == 1
    assert said[1:] == [
        "2026-03-01/6000  circuit:c-1  it is no longer what was committed", "3 trees, 7011 leaves, 1 faults",
    ]  # fmt: skip
    assert look(damaged, CHINESE, said.append, "2026-01-01", "2026-12-31") == 1
    assert said[3:] == ["2026-03-01/6000  circuit:c-1  与当时提交的内容不符", "3 棵树,7011 个叶子,1 处不符"]


def test_rows_that_nobody_committed_are_named() -> None:
    said: list[str] = []
    suite = FakeSuite()
    assert look_at_books(suite, ENGLISH, said.append) == 0
    suite.strays = [
        {
            "leaf": None,
            "subject": "circuit:c-1",
            "message": "version 1: it was never committed",
            "message_zh": "从未存证",
        }
    ]
    assert look_at_books(suite, ENGLISH, said.append) == 1
    assert said == [
        "20 circuits, 0 rows that do not belong there", "circuit:c-1  version 1: it was never committed",
        "20 circuits, 1 rows that do not belong there",
    ]  # fmt: skip


def test_the_verifier_is_handed_over_as_one_file_that_runs(tmp_path: Path) -> None:
    program = tmp_path / "verifier.py"
    assert CliRunner().invoke(build(ENGLISH), ["attestations", "verifier", str(program)]).exit_code == 0
    (tmp_path / "odd.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-I", str(program), str(tmp_path / "odd.json")], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert b"SOMETHING COULD NOT BE READ." in done.stdout


def test_a_document_is_judged_in_the_language_of_the_command_with_the_key_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTRING_DATA_DIR", str(tmp_path))
    KeyRing.create(tmp_path / "keys", ["carbon"])
    ring = KeyRing.open(tmp_path / "keys", SystemClock())
    head: dict[str, Any] = {
        "kind": "tree_head", "tree": "2026-03-01", "size": 1, "root": "00" * 32, "at": "2026-03-01T04:00:00Z",
        "final": False, "key": ring.key_id("carbon"),
    }  # fmt: skip
    signed = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    write(
        {"type": "head", "head": {**head, "signature": ring.sign_bytes("carbon", signed)}},
        tmp_path / "head.json",
        print,
    )
    for words, key, says in (
        (ENGLISH, [], "Everything that was given holds."),
        (CHINESE, ["--key", str(tmp_path / "keys" / "carbon.pub")], "全部成立。"),
    ):
        done = CliRunner().invoke(build(words), ["attestations", "verify", str(tmp_path / "head.json"), *key])
        assert (done.exit_code, done.output.strip().splitlines()[-1]) == (0, says)
