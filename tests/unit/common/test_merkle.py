"""The Merkle tree: the published vectors of Certificate Transparency, and a tree that only repeats the definition."""

import itertools
import math
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common import merkle
from libs.common.merkle import OutOfTree, Span, TileKey
from libs.common.verifier import consistency_holds, inclusion_holds

# The test data of the certificate-transparency project (merkle tree tests), as RFC 6962 trees of 0 to 8 leaves.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSIONS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCIES = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


# RFC 6962, 2.1 to 2.1.2, word for word; slow, and shares nothing with what is tested.
def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], known: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


def grown(*batches: list[bytes]) -> tuple[dict[TileKey, bytes], int]:
    """Append batches, each time with nothing but the tiles that the module says it needs."""
    tiles: dict[TileKey, bytes] = {}
    size = 0
    for batch in batches:
        needed = {key: tiles[key] for key in merkle.edge(size)}
        for key, tile in merkle.extend(needed, size, merkle.leaf_hashes(batch)).items():
            assert tile.startswith(tiles.get(key, b"")), "a hash that was there has changed"
            tiles[key] = tile
        size += len(batch)
    return tiles, size


def proof_from_few(tiles: dict[TileKey, bytes], spans: list[Span], most: int) -> list[bytes]:
    needed = merkle.tiles_for(spans)
    assert len(needed) <= most
    return merkle.proof({key: tiles[key] for key in needed}, spans)


def flipped(hashes: list[bytes], bit: int) -> list[bytes]:
    whole = bytearray(b"".join(hashes))
    whole[bit // 8] ^= 1 << bit % 8
    return [bytes(whole[at : at + 32]) for at in range(0, len(whole), 32)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_that_certificate_transparency_publishes(size: int) -> None:
    tiles, _ = grown(LEAVES[:size])
    assert merkle.root(tiles, size).hex() == ROOTS[size]


@pytest.mark.parametrize(("leaf", "expected"), INCLUSIONS.items())
def test_inclusion_proofs_are_those_that_certificate_transparency_publishes(
    leaf: tuple[int, int], expected: list[str]
) -> None:
    index, size = leaf
    tiles, _ = grown(LEAVES)
    found = merkle.proof(tiles, merkle.inclusion(index, size))
    assert [one.hex() for one in found] == expected
    assert inclusion_holds(LEAVES[index], index, size, found, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("sizes", "expected"), CONSISTENCIES.items())
def test_consistency_proofs_are_those_that_certificate_transparency_publishes(
    sizes: tuple[int, int], expected: list[str]
) -> None:
    old, new = sizes
    tiles, _ = grown(LEAVES)
    found = merkle.proof(tiles, merkle.consistency(old, new))
    assert [one.hex() for one in found] == expected
    assert consistency_holds(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), found)


SIZES = st.integers(1, 40) | st.integers(250, 262) | st.integers(500, 780)


@settings(max_examples=60)
@given(SIZES, st.data())
def test_the_tree_in_tiles_is_that_of_the_definition_however_it_was_appended(size: int, data: st.DataObject) -> None:
    leaves = numbered(size)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    edges = [0, *cuts, size]
    tiles, _ = grown(*(leaves[start:end] for start, end in itertools.pairwise(edges)))
    assert tiles == grown(leaves)[0]
    earlier = data.draw(st.integers(0, size))
    assert merkle.root(tiles, size) == mth(leaves)
    assert merkle.root(tiles, earlier) == mth(leaves[:earlier])


@settings(max_examples=60)
@given(SIZES, st.data())
def test_every_inclusion_proof_is_that_of_the_definition_and_no_flipped_bit_verifies(
    size: int, data: st.DataObject
) -> None:
    leaves = numbered(size)
    tiles, _ = grown(leaves)
    index = data.draw(st.integers(0, size - 1))
    root = mth(leaves)
    found = proof_from_few(tiles, merkle.inclusion(index, size), 4)
    assert found == path(index, leaves)
    assert len(found) <= math.ceil(math.log2(size)) if size > 1 else found == []
    assert inclusion_holds(leaves[index], index, size, found, root)
    assert not inclusion_holds(leaves[index] + b"\0", index, size, found, root)
    assert not inclusion_holds(leaves[index], index, size, [*found, root], root)
    assert not inclusion_holds(leaves[index], index, size, found, flipped([root], data.draw(st.integers(0, 255)))[0])
    other = data.draw(st.integers(0, size + 1))
    assert other == index or not inclusion_holds(leaves[index], other, size, found, root)
    if found:
        bit = data.draw(st.integers(0, len(found) * 256 - 1))
        assert not inclusion_holds(leaves[index], index, size, flipped(found, bit), root)
        assert not inclusion_holds(leaves[index], index, size, found[:-1], root)


@settings(max_examples=60)
@given(SIZES, st.data())
def test_every_consistency_proof_is_that_of_the_definition_and_no_flipped_bit_verifies(
    new: int, data: st.DataObject
) -> None:
    leaves = numbered(new)
    tiles, _ = grown(leaves)
    old = data.draw(st.integers(1, new))
    before, after = mth(leaves[:old]), mth(leaves)
    found = proof_from_few(tiles, merkle.consistency(old, new), 6)
    assert found == subproof(old, leaves, True)
    assert consistency_holds(old, new, before, after, found)
    assert not consistency_holds(old, new, before, after, [*found, after])
    assert not consistency_holds(old, new, flipped([before], data.draw(st.integers(0, 255)))[0], after, found)
    assert not consistency_holds(old, new, before, flipped([after], data.draw(st.integers(0, 255)))[0], found)
    if found:
        bit = data.draw(st.integers(0, len(found) * 256 - 1))
        assert not consistency_holds(old, new, before, after, flipped(found, bit))
        assert not consistency_holds(old, new, before, after, found[:-1])


@settings(max_examples=30)
@given(st.integers(2, 300), st.data())
def test_a_changed_list_has_no_proof_that_it_continues_the_old_one(new: int, data: st.DataObject) -> None:
    leaves = numbered(new)
    old = data.draw(st.integers(1, new))
    forged = list(leaves)
    forged[data.draw(st.integers(0, old - 1))] = b"another"
    tiles, _ = grown(forged)
    found = merkle.proof(tiles, merkle.consistency(old, new))
    assert not consistency_holds(old, new, mth(leaves[:old]), merkle.root(tiles, new), found)


def test_a_doubled_last_leaf_is_another_tree() -> None:
    """The forgery that trees have which fill up with the last leaf (CVE-2012-2459)."""
    leaves = numbered(3)
    assert merkle.root(*grown(leaves)) != merkle.root(*grown([*leaves, leaves[-1]]))


def test_a_tree_of_several_levels_is_read_from_few_tiles() -> None:
    size = 70_000
    leaves = numbered(size)
    tiles, _ = grown(leaves[:65_536], leaves[65_536:65_537], leaves[65_537:])
    root = merkle.root({key: tiles[key] for key in merkle.edge(size)}, size)
    assert max(key.level for key in tiles) == 2
    for index in (0, 255, 256, 65_535, 65_536, 69_999):
        found = proof_from_few(tiles, merkle.inclusion(index, size), 6)
        assert inclusion_holds(leaves[index], index, size, found, root)
    for old in (1, 256, 65_535, 65_536, 65_537, 69_999):
        found = proof_from_few(tiles, merkle.consistency(old, size), 9)
        assert consistency_holds(old, size, merkle.root(tiles, old), root, found)


def test_what_is_not_in_the_tree_is_said_so() -> None:
    tiles, size = grown(numbered(5))
    with pytest.raises(OutOfTree, match="5 leaves has no leaf 5"):
        merkle.inclusion(5, size)
    for old, new in ((0, 5), (6, 5)):
        with pytest.raises(OutOfTree, match=f"no tree of {old} leaves"):
            merkle.consistency(old, new)
    with pytest.raises(OutOfTree, match="tile 0 of level 0 holds 5 hashes, not 6"):
        merkle.root(tiles, 6)
    with pytest.raises(OutOfTree, match="holds 0 hashes, not 5"):
        merkle.extend({}, 5, merkle.leaf_hashes([b""]))
