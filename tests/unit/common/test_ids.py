"""Identifiers sort by their time and do not repeat."""

import uuid

import pytest

from libs.common import ids


def at(monkeypatch: pytest.MonkeyPatch, now_ns: int) -> str:
    monkeypatch.setattr("libs.common.ids.time.time_ns", lambda: now_ns)
    return ids.new_id()


def test_it_is_a_version_7_uuid_with_the_time_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = 1_772_337_600_123
    found = uuid.UUID(at(monkeypatch, milliseconds * 1_000_000 + 999_999))
    assert found.version == 7
    assert found.variant == uuid.RFC_4122
    assert found.int >> 80 == milliseconds
    assert (found.int >> 64) & 0xFFF == 0xFFF


def test_text_order_is_time_order_to_a_quarter_of_a_microsecond(monkeypatch: pytest.MonkeyPatch) -> None:
    start = 1_772_337_600_000_000_000
    found = [at(monkeypatch, start + step * 250) for step in range(8000)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_ids_of_one_instant_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [at(monkeypatch, 1_772_337_600_000_000_000) for _ in range(1000)]
    assert len(set(found)) == 1000
