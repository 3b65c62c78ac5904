"""Registration packets and heartbeats as the registry writes them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libs.common.contracts.registry import Line, LineKind
from libs.common.registry.packets import MAX_PACKET_BYTES, parse_packet, parse_pattern
from libs.common.registry.rules import broken_rules


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("IMEI867123456789012", b"IMEI867123456789012"),
        ("hex:AA 55 01", b"\xaa\x55\x01"),
        ("hex:aa5501", b"\xaa\x55\x01"),
        ("白云", "白云".encode()),
    ],
)
def test_packet(text: str, packet: bytes) -> None:
    assert parse_packet(text) == packet


@pytest.mark.parametrize("text", ["", "hex:", "hex:A", "hex:XY", "x" * (MAX_PACKET_BYTES + 1)])
def test_what_is_no_packet(text: str) -> None:
    with pytest.raises(ValueError, match=r"packet has 1 to|no hexadecimal"):
        parse_packet(text)


@pytest.mark.parametrize(
    ("text", "data", "end"),
    [
        ("PING", b"PINGdata", 4),
        ("PING", b"PIN", None),
        ("hex:FE ?? 16", b"\xfe\x07\x16rest", 3),
        ("hex:FE ?? 16", b"\xfe\x07\x17", None),
        ('{"csq":*}', b'{"csq":23}data}', 10),
        ('{"csq":*}', b'{"csq":23', None),
        ("hb*", b"hb123", 2),
        ("h?*\n", b"hx12\n", 5),
    ],
)
def test_heartbeat_at_the_beginning(text: str, data: bytes, end: int | None) -> None:
    assert parse_pattern(text).end_in(data) == end


def test_heartbeat_at_the_end() -> None:
    assert parse_pattern("PING").start_in(b"dataPING") == 4
    assert parse_pattern("PING").start_in(b"dataPIN") is None
    assert parse_pattern("a*b").start_in(b"data-a-b") is None  # nobody can say where it began


@pytest.mark.parametrize("text", ["", "*", "hex:??", "a*b*c", "hex:??*", "hex:F", "hex:GG", "x" * 300])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # said in several words
        parse_pattern(text)


@given(st.binary(min_size=1, max_size=20), st.binary(max_size=40))
def test_fixed_heartbeat_is_found_on_either_side(packet: bytes, data: bytes) -> None:
    pattern = parse_pattern("hex:" + packet.hex())
    assert pattern.end_in(packet + data) == len(packet)
    assert pattern.start_in(data + packet) == len(data)


@pytest.mark.parametrize(
    ("endpoint", "settings", "field"),
    [
        ("hex:XY", None, "endpoint"),
        ("DTU1", {"heartbeat": "a*b*c"}, "settings.heartbeat"),
        ("DTU1", {"heartbeat": "PING"}, None),
    ],
)
def test_line_of_a_terminal_that_cannot_be_is_refused(
    endpoint: str, settings: dict[str, bool | int | float | str] | None, field: str | None
) -> None:
    line = Line.model_validate(
        {
            "id": "l", "name": "L", "valid_from": "2026-01-01T00:00:00Z", "version": 1, "changed_by": "user:test",
            "kind": LineKind.DTU, "endpoint": endpoint, "settings": settings,
        }
    )  # fmt: skip
    assert [broken.field for broken in broken_rules(line)] == ([] if field is None else [field])
