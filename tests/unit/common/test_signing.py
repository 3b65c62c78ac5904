"""Orders under one signature: each can be checked by itself, and nothing else passes for one."""

import base64
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.merkle import leaf_hash, node_hash
from libs.common.signing import CONTEXT, DEPTH_AT_MOST, TOGETHER, Signed, sign_each, signed_bytes
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing


@pytest.fixture(scope="module")
def keys() -> Iterator[KeyRing]:
    with TemporaryDirectory() as place:
        KeyRing.create(Path(place))
        yield KeyRing.open(Path(place), FakeClock())


def holds(keys: KeyRing, order: bytes, shown: Signed) -> bool:
    try:
        return keys.verify_bytes("control", signed_bytes(order, shown.proof), shown.signature)
    except ValueError:
        return False


def orders(count: int) -> list[bytes]:
    return [f'{{"command_id":"{number}"}}'.encode() for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, TOGETHER, 17, 47, 100])
def test_each_order_is_its_signers_by_itself(keys: KeyRing, count: int) -> None:
    wanted = orders(count)
    found = sign_each(keys, "control", wanted)
    assert len(found) == count
    assert all(holds(keys, order, shown) for order, shown in zip(wanted, found, strict=True))
    assert len({shown.signature for shown in found}) == count // TOGETHER + (count % TOGETHER).bit_count()
    assert {len(base64.b64decode(shown.proof)) for shown in found[:TOGETHER] if shown.proof} <= {33, 65, 97, 129}


def test_one_order_is_signed_as_it_stands(keys: KeyRing) -> None:
    (shown,) = sign_each(keys, "control", orders(1))
    assert shown.proof is None
    assert keys.verify_bytes("control", orders(1)[0], shown.signature)


def test_signature_and_proof_show_nothing_of_another_order(keys: KeyRing) -> None:
    wanted = orders(TOGETHER)
    found = sign_each(keys, "control", wanted)
    for number, order in enumerate(wanted):
        assert [at for at, shown in enumerate(found) if holds(keys, order, shown)] == [number]
        assert not holds(keys, order, Signed(found[number].signature, None))
        assert not holds(keys, order + b" ", found[number])
    by_itself = sign_each(keys, "control", wanted[:1])[0]
    assert not holds(keys, wanted[0], Signed(by_itself.signature, found[0].proof))


def test_what_lies_within_the_tree_is_no_order(keys: KeyRing) -> None:
    """Two hashes side by side were never ordered, although the way from them leads to the signed root."""
    wanted = orders(2)
    (first, _) = sign_each(keys, "control", wanted)
    root = node_hash(leaf_hash(wanted[0]), leaf_hash(wanted[1]))
    assert keys.verify_bytes("control", CONTEXT + root, first.signature)
    inner = leaf_hash(wanted[0]) + leaf_hash(wanted[1])
    assert not holds(keys, inner, Signed(first.signature, None))
    assert not holds(keys, inner, first)
    assert not holds(keys, CONTEXT + root + b"{}", Signed(first.signature, None))


@given(place=st.integers(0, 255), hashes=st.integers(0, 2 * DEPTH_AT_MOST), rest=st.integers(0, 31))
def test_a_proof_has_whole_hashes_few_of_them_and_a_place_in_their_tree(place: int, hashes: int, rest: int) -> None:
    proof = base64.b64encode(bytes([place]) + bytes(32 * hashes + rest)).decode()
    if rest == 0 and 0 < hashes <= DEPTH_AT_MOST and place < 2**hashes:
        assert len(signed_bytes(b"{}", proof)) == len(CONTEXT) + 32
    else:
        with pytest.raises(ValueError, match="are no proof"):
            signed_bytes(b"{}", proof)


@given(st.text(max_size=200))
def test_what_is_no_proof_is_refused(text: str) -> None:
    try:
        found = signed_bytes(b"{}", text)
    except ValueError:
        return
    assert found.startswith(CONTEXT)


@pytest.mark.parametrize("bit", [0, 7, 8, 300, 1031])
def test_one_bit_of_a_proof_or_a_signature_makes_it_void(keys: KeyRing, bit: int) -> None:
    wanted = orders(TOGETHER)
    signature, proof = sign_each(keys, "control", wanted)[5]
    assert proof is not None

    def flipped(text: str) -> str:
        raw = bytearray(base64.b64decode(text))
        raw[bit // 8 % len(raw)] ^= 1 << bit % 8
        return base64.b64encode(raw).decode()

    assert not holds(keys, wanted[5], Signed(signature, flipped(proof)))
    assert not holds(keys, wanted[5], Signed(flipped(signature), proof))
