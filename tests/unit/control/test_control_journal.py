"""The watchdog's file: what was acknowledged is there after a kill at any point, in any byte."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.control.domain.watch import Book
from services.control.watchdog.journal import Journal


def put(number: int, *, ended: tuple[str, ...] = (), complete: bool = False) -> dict[str, Any]:
    lease = {
        "command_id": f"off-{number}", "load_id": f"load-{number}", "device_id": "d", "channel": None, "site_id": "s",
        "restore_at": "2026-03-01T22:00:00+00:00", "off_at_most_s": 3600.0, "isolation_id": None, "boot": "b",
        "deadline": 5000.0 + number, "opened_at": None,
    }  # fmt: skip
    return {"kind": "put", "epoch": number, "complete": complete, "leases": [lease], "ended": list(ended),
            "released_trips": {}}  # fmt: skip


records = st.one_of(
    st.builds(
        put, st.integers(0, 5), ended=st.sampled_from([(), ("off-0",), ("off-1", "off-2")]), complete=st.booleans()
    ),
    st.builds(lambda n: {"kind": "ended", "command_ids": [f"off-{n}"]}, st.integers(0, 5)),
    st.builds(
        lambda n: {"kind": "opened", "command_id": f"off-{n}", "boot": "b", "monotonic": 7.0, "deadline": 9.0},
        st.integers(0, 5),
    ),
    st.builds(lambda t: {"kind": "told", "findings": {"load-1|k": t}}, st.sampled_from([None, "overdue"])),
)


def fold(taken: list[dict[str, Any]]) -> Book:
    book = Book()
    for record in taken:
        book.apply(record)
    return book


def read(path: Path) -> Book:
    with Journal(path) as journal:
        assert not journal.is_damaged
        return journal.book


@settings(max_examples=60, deadline=None)
@given(taken=st.lists(records, min_size=1, max_size=8), data=st.data())
def test_a_kill_in_any_byte_loses_nothing_acknowledged(
    taken: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "leases.journal"
    ends = []
    with Journal(path) as journal:
        for record in taken:
            journal.append(record)
            ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    acknowledged = taken[: sum(end <= cut for end in ends)]
    with Journal(path) as again:
        assert again.book == fold(acknowledged)
        assert not again.is_damaged
        # And it goes on from there.
        again.append(put(9))
    assert read(path) == fold([*acknowledged, put(9)])


@settings(max_examples=60, deadline=None)
@given(taken=st.lists(records, min_size=1, max_size=30))
def test_replacing_the_file_changes_nothing(
    taken: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "leases.journal"
    with Journal(path, compact_bytes=300) as journal:
        for record in taken:
            journal.append(record)
        assert journal.book == fold(taken)
    assert read(path) == fold(taken)


def test_a_file_that_grows_is_replaced(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", compact_bytes=1000) as journal:
        for number in range(200):
            journal.append(put(number, complete=True))
    assert (tmp_path / "j").stat().st_size < 5000
    assert set(read(tmp_path / "j").leases) == {"off-199"}


def test_a_kill_while_the_file_is_replaced_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    with Journal(path, compact_bytes=500) as journal:
        journal.append(put(1))

        def killed(self: Path, target: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            journal.append(put(2))
        monkeypatch.undo()
    assert read(path) == fold([put(1), put(2)])
    assert not path.with_suffix(".new").exists()


@pytest.mark.parametrize("damage", [b"garbage\n", b"00000000 {}\n", b'5b2c1d2e {"kind":"put"}\n', b"\0" * 512 + b"\n"])
def test_what_the_disk_has_lost_is_noticed_and_the_rest_is_used(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(put(1))
        first = path.stat().st_size
        journal.append(put(2))
    content = path.read_bytes()
    path.write_bytes(content[:first] + damage + content[first:])
    with Journal(path) as again:
        assert again.is_damaged
        assert set(again.book.leases) == {"off-1", "off-2"}


def test_a_full_disk_takes_nothing_and_the_next_record_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(put(1))

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(put(2))
        monkeypatch.undo()
        assert set(journal.book.leases) == {"off-1"}
        journal.append(put(3))
    assert set(read(path).leases) == {"off-1", "off-3"}


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    read(tmp_path / "watchdog" / "j")
    assert (tmp_path / "watchdog" / "j").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "watchdog").stat().st_mode & 0o777 == 0o700
