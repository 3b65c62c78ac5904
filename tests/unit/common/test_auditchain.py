"""The chain of an audit: whatever is changed, removed, moved or added is found, and the first wrong entry named."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.auditchain import FIELDS, GENESIS, Broken, Head, digest_of, read_csv, read_ndjson, verify
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
FACTS = st.none() | st.dictionaries(TEXTS, VALUES, max_size=4)
ENTRIES = st.lists(st.tuples(TEXTS, FACTS, FACTS, st.booleans()), min_size=1, max_size=6)


def chain(entries: list[tuple[str, Any, Any, bool]], start: int = 0, previous: str = GENESIS) -> list[dict[str, Any]]:
    lines = []
    for seq, (text, before, after, succeeded) in enumerate(entries, start + 1):
        line = {
            "seq": seq, "entry_id": f"e-{seq}", "at": f"2026-03-01T12:00:{seq:02d}Z", "actor": "user:li", "door": "api",
            "action": "plan.approve", "subject": "plan:1", "reason": text or None, "succeeded": succeeded,
            "before": before, "after": after, "previous": previous,
        }  # fmt: skip
        previous = line["hash"] = digest_of(line, previous)
        lines.append(line)
    return lines


@given(ENTRIES)
def test_what_was_written_holds_also_after_its_way_through_a_file(entries: list[Any]) -> None:
    lines = chain(entries)
    assert verify(lines).last == len(lines)
    assert verify(read_ndjson(json.dumps(line) for line in lines)).hash == lines[-1]["hash"]
    assert verify(lines[1:] or lines).last == len(lines)


def changed(value: Any) -> Any:
    return "another" if value != "another" else "a third"


@given(ENTRIES, st.data())
def test_a_changed_field_is_found_at_its_entry(entries: list[Any], data: st.DataObject) -> None:
    lines = chain(entries)
    place = data.draw(st.integers(0, len(lines) - 1))
    name = data.draw(st.sampled_from([name for name in FIELDS if name != "seq"]))
    lines[place][name] = changed(lines[place][name])
    with pytest.raises(Broken) as caught:
        verify(lines)
    assert caught.value.seq == place + 1
    assert caught.value.chinese


@given(ENTRIES.filter(lambda found: len(found) > 1), st.data())
def test_a_missing_entry_is_named(entries: list[Any], data: st.DataObject) -> None:
    lines = chain(entries)
    place = data.draw(st.integers(1, len(lines) - 1))
    head = {"head": {"seq": len(lines), "hash": lines[-1]["hash"], "at": "now", "signature": ""}}
    del lines[place]
    if place < len(lines):
        with pytest.raises(Broken, match=f"entry {place + 1} is missing"):
            verify(lines)
    else:  # cut off at the end: the head says that there was more
        found = verify([*lines, head])
        assert found.head is not None
        assert found.head.seq > found.last


@given(ENTRIES.filter(lambda found: len(found) > 1), st.data())
def test_entries_that_changed_places_are_found(entries: list[Any], data: st.DataObject) -> None:
    lines = chain(entries)
    one, other = data.draw(
        st.lists(st.integers(0, len(lines) - 1), min_size=2, max_size=2, unique=True).map(lambda pair: sorted(pair))
    )
    lines[one], lines[other] = lines[other], lines[one]
    with pytest.raises(Broken):
        verify(lines)
    for place in (one, other):  # also when they take each other's numbers
        lines[place]["seq"] = place + 1
    with pytest.raises(Broken):
        verify(lines)


@given(ENTRIES, ENTRIES)
def test_a_chain_that_was_computed_anew_is_not_the_published_one(entries: list[Any], others: list[Any]) -> None:
    lines = chain(entries)
    head = Head(len(lines), lines[-1]["hash"], "now", "")
    assert verify(lines, [head]).last == head.seq
    forged = copy.deepcopy(entries)
    forged[0] = (forged[0][0] + "x", *forged[0][1:])
    with pytest.raises(Broken, match="published as head"):
        verify(chain(forged), [head])


def test_a_head_holds_under_its_signers_key_only(tmp_path: Any) -> None:
    clock = FakeClock()
    KeyRing.create(tmp_path / "a", ["control", "gateway"])
    ring = KeyRing.open(tmp_path / "a", clock)
    head = Head.signed(ring, "control", 7, "ab", clock.now())
    assert Head.read(head.as_json()).holds(ring, "control")
    assert not head.holds(ring, "gateway")
    assert not Head(8, head.hash, head.at, head.signature).holds(ring, "control")
    KeyRing.create(tmp_path / "b", ["control"])
    assert not head.holds(KeyRing.open(tmp_path / "b", clock), "control")


@pytest.mark.parametrize("line", ["rubbish", "[]", '{"seq": "1"}', '{"seq": true}', '{"seq": 0}', '{"head": 1}'])
def test_what_is_no_entry_is_refused(line: str) -> None:
    with pytest.raises(Broken):
        verify(read_ndjson([line]))


@pytest.mark.parametrize("text", ["", "a,b\r\n", ",".join(FIELDS) + "\r\n1,2\r\n"])
def test_what_is_no_sheet_is_refused(text: str) -> None:
    with pytest.raises(Broken):
        verify(read_csv(text.splitlines(keepends=True)))


@given(st.lists(st.dictionaries(st.sampled_from([*FIELDS, "head"]), VALUES, max_size=13), max_size=4))
def test_anything_else_is_broken_or_empty_and_nothing_worse(lines: list[Any]) -> None:
    try:
        verify(lines)
    except Broken:
        return
    assert not [line for line in lines if "head" not in line]
