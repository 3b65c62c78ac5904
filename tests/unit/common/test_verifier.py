"""The verifier as a stranger uses it: one file, by itself, on documents that may say anything."""

import ast
import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common import merkle, tokens, verifier
from libs.common.verifier import GENESIS, Head, Leaf, Unreadable, Verifier, main

KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def leaf(number: int, **more: Any) -> str:
    fields = {"kind": "factor", "subject": f"factor:{number}", "seq": 1, "previous": GENESIS, "salt": "00" * 16, **more}
    return verifier.canonical(fields).decode()


def tree(leaves: list[str]) -> dict[merkle.TileKey, bytes]:
    return merkle.extend({}, 0, merkle.leaf_hashes(hashlib.sha256(text.encode()).digest() for text in leaves))


def signed(
    leaves: list[str], day: str = "2026-03-01", key: Ed25519PrivateKey = KEY, *, final: bool = False
) -> dict[str, Any]:
    head = {
        "kind": "tree_head", "tree": day, "size": len(leaves), "root": merkle.root(tree(leaves), len(leaves)).hex(),
        "at": "2026-03-01T04:00:00Z", "final": final, "key": verifier.key_id(key.public_key()).hex(),
    }  # fmt: skip
    return {**head, "signature": base64.b64encode(key.sign(verifier.canonical(head))).decode()}


def inclusion(leaves: list[str], index: int, **more: Any) -> dict[str, Any]:
    path = merkle.proof(tree(leaves), merkle.inclusion(index, len(leaves)))
    return {
        "type": "inclusion", "leaf": leaves[index], "index": index, "head": signed(leaves),
        "path": [one.hex() for one in path], **more,
    }  # fmt: skip


def judge(*documents: Any, witness: Any = None) -> tuple[int, str]:
    found = Verifier([KEY.public_key()])
    if witness is not None:
        found.witness(witness)
    for document in documents:
        found.take(document)
    judgement = found.conclude()
    return judgement.exit_code, "\n".join(one.english for one in judgement.said)


LEAVES = [leaf(number) for number in range(5)]


def test_it_needs_nothing_but_python_and_cryptography() -> None:
    source = Path(verifier.__file__).read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"cryptography"}


@pytest.mark.parametrize(("language", "says"), [("en", "Everything that was given holds."), ("zh", "全部成立。")])
def test_the_file_alone_judges_files_in_a_process_of_its_own(tmp_path: Path, language: str, says: str) -> None:
    program = shutil.copy(verifier.__file__, tmp_path / "check.py")
    (tmp_path / "proof.json").write_text(json.dumps(inclusion(LEAVES, 3)))
    (tmp_path / "head.json").write_text(json.dumps({"type": "head", "head": signed(LEAVES)}))
    (tmp_path / "carbon.pub").write_bytes(PEM)
    command = [sys.executable, "-I", program, "proof.json", "--key", "carbon.pub", "--witness", "head.json"]
    done = subprocess.run(
        [*command, "--lang", language], cwd=tmp_path, capture_output=True, timeout=60, check=False,
        env={"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().strip().endswith(says)


def test_its_canonical_text_is_that_of_the_platform() -> None:
    fields = {"b": '线路 \u2028\x7f\x01"\\/', "a": [1, None, True, {"z": -5, "y": ""}], "é": 2**53}
    assert verifier.canonical(fields) == tokens.canonical(fields)


@settings(max_examples=100)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                       st.none() | st.booleans() | st.integers(-(2**53), 2**53)
                       | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5))  # fmt: skip
def test_both_write_the_same_canonical_text(fields: dict[str, Any]) -> None:
    assert verifier.canonical(fields) == tokens.canonical(fields)


@settings(max_examples=80)
@given(st.data())
def test_a_document_with_one_changed_character_does_not_hold(data: st.DataObject) -> None:
    text = json.dumps(inclusion(LEAVES, 3))
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126).filter(lambda one: one != text[place]))
    changed = text[:place] + other + text[place + 1 :]
    try:
        document = verifier.read_document("changed", changed.encode())
    except Unreadable:
        return
    if document == json.loads(text):  # white space
        return
    assert judge(document)[0] != 0


@settings(max_examples=80)
@given(JSON, st.sampled_from(["inclusion", "consistency", "chain", "head"]), st.data())
def test_whatever_a_document_says_it_is_judged_and_never_a_crash(value: Any, kind: str, data: st.DataObject) -> None:
    names = ["leaf", "index", "head", "path", "old", "new", "closed", "days", "entries"]
    document: dict[str, Any] = {**inclusion(LEAVES, 3), "old": signed(LEAVES), "new": signed(LEAVES), "entries": LEAVES}
    document |= {"type": kind, data.draw(st.sampled_from(names)): value}
    assert judge(document)[0] in (0, 1, 2)
    assert judge(value)[0] == 2
    assert judge(witness=value)[0] in (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        leaf(1).replace('"seq":1', '"seq":1,"seq":1'),
        leaf(1).replace('"seq":1', '"seq":1.0'),
        leaf(1, value=0.5),
        leaf(1, seq=True),
        " " + leaf(1),
        leaf(1).replace("factor", "\\u0066actor"),
        "[" * 100_000,
    ],
    ids=["no leaf", "name twice", "number in two ways", "fraction", "no number", "blank", "escape", "deep"],
)
def test_a_leaf_that_could_be_read_in_two_ways_is_not_read(text: str) -> None:
    with pytest.raises(Unreadable):
        Leaf.read(text)


def test_a_head_of_somebody_else_is_not_trusted() -> None:
    code, words = judge({**inclusion(LEAVES, 3), "head": signed(LEAVES, key=STRANGER)})
    assert code == 1
    assert "which was not given" in words
    named = {**signed(LEAVES, key=STRANGER), "key": verifier.key_id(KEY.public_key()).hex()}
    assert "its signature does not hold" in judge({"type": "head", "head": named})[1]
    nobody = Verifier([])
    nobody.take(inclusion(LEAVES, 3))
    assert nobody.conclude().exit_code == 1


def test_a_signed_head_stands_for_no_other_size_day_or_end() -> None:
    head = signed(LEAVES)
    for changed in ({"size": 4}, {"tree": "2026-03-02"}, {"final": True}, {"at": "2026-03-01T05:00:00Z"}):
        assert judge({"type": "head", "head": {**head, **changed}})[0] == 1
    with pytest.raises(Unreadable):
        Head.read({**head, "extra": 1})


def test_two_histories_under_one_signature_are_named() -> None:
    forged = [leaf(9), *LEAVES[1:]]
    code, words = judge(inclusion(forged, 3), witness={"type": "head", "head": signed(LEAVES)})
    assert code == 1
    assert "TWO HISTORIES" in words


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        (signed(LEAVES), signed(LEAVES, final=True), 0),
        (signed(LEAVES[:3]), signed(LEAVES, final=True), 0),
        (signed(LEAVES[:3], final=True), signed(LEAVES), 1),
        (signed(LEAVES, final=True), signed(LEAVES[:3], final=True), 1),
        (signed(LEAVES[:3], final=True), signed(LEAVES, "2026-03-02"), 0),
    ],
)
def test_a_tree_that_grew_after_it_was_closed_is_a_second_history(one: Any, other: Any, code: int) -> None:
    assert judge({"type": "head", "head": other}, witness=[one])[0] == code


def test_a_witness_may_keep_a_head_as_it_was_called_out_answered_or_by_itself() -> None:
    called = {"specversion": "1.0", "type": verifier.CALLBACK, "data": signed(LEAVES)}
    for kept in (signed(LEAVES), {"type": "head", "head": signed(LEAVES)}, called, [called, signed(LEAVES[:2])]):
        code, words = judge(inclusion(LEAVES, 3), witness=kept)
        assert code == 0
        assert "was committed before you were given head" in words
    assert judge(called)[0] == 0


def test_after_a_rotation_both_keys_are_given_and_each_head_is_held_against_its_own() -> None:
    later = [*LEAVES, leaf(5)]
    rotated = signed(later, key=STRANGER)
    path = merkle.proof(tree(later), merkle.consistency(5, 6))
    document = {
        "type": "consistency", "old": signed(LEAVES), "new": rotated, "path": [one.hex() for one in path], "days": [],
    }  # fmt: skip
    both = Verifier([KEY.public_key(), STRANGER.public_key()])
    both.take(document)
    assert both.conclude().exit_code == 0
    assert judge(document)[0] == 1


def test_a_day_that_does_not_begin_with_the_head_before_is_another_log() -> None:
    closed = signed(LEAVES, final=True)
    honest = [leaf(0, kind="head", closed=closed), leaf(7)]
    other = [leaf(0, kind="head", closed={**closed, "size": 4}), leaf(7)]
    for leaves, expected in ((honest, 0), (other, 1)):
        head = signed(leaves, "2026-03-02")
        path = merkle.proof(tree(leaves), merkle.inclusion(0, 2))
        day = {"leaf": leaves[0], "head": head, "path": [one.hex() for one in path]}
        document = {"type": "consistency", "old": closed, "new": head, "closed": closed, "path": [], "days": [day]}
        code, words = judge(document)
        assert code == expected, words
    not_closed = signed(LEAVES)
    document |= {"old": not_closed, "closed": not_closed}
    assert judge(document)[0] == 1


def test_a_chain_with_a_missing_leaf_does_not_hold() -> None:
    entries: list[str] = []
    previous = GENESIS
    for seq in range(1, 5):
        entries.append(leaf(1, seq=seq, previous=previous))
        previous = hashlib.sha256(entries[-1].encode()).hexdigest()
    assert judge({"type": "chain", "entries": entries})[0] == 0
    assert judge({"type": "chain", "entries": entries[1:]})[0] == 0
    for wrong in (entries[:1] + entries[2:], entries[::-1], [*entries[:2], leaf(2), *entries[2:]], []):
        assert judge({"type": "chain", "entries": wrong})[0] != 0


def test_what_cannot_be_read_is_said_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carbon.pub").write_bytes(PEM)
    (tmp_path / "odd.json").write_bytes(b"\xff\xfe")
    key = ["--key", str(tmp_path / "carbon.pub")]
    assert main([str(tmp_path / "odd.json"), *key]) == 2
    assert main([str(tmp_path / "absent.json"), *key]) == 2
    assert main([str(tmp_path / "odd.json"), "--key", str(tmp_path / "odd.json")]) == 2
    said = capsys.readouterr().out
    assert "not a JSON document" in said
    assert "absent.json cannot be read" in said
    assert "not an Ed25519 public key" in said
    (tmp_path / "half.json").write_text('{"type": "head", "head": "\\ud800"}')
    assert main([str(tmp_path / "half.json"), *key, "--lang", "zh"]) == 2
    monkeypatch.setattr(verifier, "DOCUMENT_BYTES", 10)
    with pytest.raises(Unreadable, match="larger than 10 bytes"):
        verifier.read_document("large", b" " * 11)
