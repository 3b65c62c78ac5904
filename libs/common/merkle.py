"""The Merkle tree of RFC 6962 over an append-only list, kept in tiles, and its proofs.

A leaf ``d`` is hashed as ``SHA256(0x00 || d)``, a node as ``SHA256(0x01 || left || right)``; a list is split at the
largest power of two below its length, and no leaf is ever doubled. What is kept are *tiles*: runs of up to 256 hashes
of the subtrees with 256^level leaves. Only the last tile of each level grows, the others never change; whatever lies
between two levels is computed from at most 256 neighbours. So a proof reads a number of rows that grows with the
logarithm of the size, and five million leaves are twenty thousand rows.

This module makes trees and proofs. Who checks them needs none of it: ``verifier.py`` is the other side, by itself.

Source:
    RFC 6962 (2013) and RFC 9162 (2021), sections 2.1. The tiles are those of the C2SP specification tlog-tiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile."""
TILE_BYTES = TILE_WIDTH * HASH_BYTES
EMPTY_ROOT = sha256(b"").digest()
"""Of a tree without leaves."""


class OutOfTree(ValueError):
    """A leaf or a size that the tree does not have."""


class TileKey(NamedTuple):
    """Where a tile stands."""

    level: int
    """Its hashes are those of subtrees with 256^level leaves."""
    number: int
    """Its first hash is that of subtree 256 · number."""


class Span(NamedTuple):
    """The leaves ``[start, end)`` that a node of some tree stands for."""

    start: int
    end: int


class Subtree(NamedTuple):
    """A complete subtree: the leaves ``[place · 2^height, (place + 1) · 2^height)``."""

    height: int
    place: int


Tiles = Mapping[TileKey, bytes]
"""Tiles as they are kept: hashes one behind the other, 32 bytes each; a tile may hold more than a size needs."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two subtrees."""
    return sha256(b"\x01" + left + right).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> bytes:
    """Return the hashes of leaves one behind the other, as ``extend`` takes them."""
    return b"".join([sha256(b"\x00" + data).digest() for data in leaves])


def edge(size: int) -> list[TileKey]:
    """Return the tiles that are not full in a tree of ``size`` leaves: all that ``extend`` and ``root`` need."""
    found = []
    for level in range(_levels(size)):
        hashes = size >> (TILE_HEIGHT * level)
        if hashes % TILE_WIDTH:
            found.append(TileKey(level, hashes // TILE_WIDTH))
    return found


def extend(tiles: Tiles, size: int, hashes: bytes) -> dict[TileKey, bytes]:
    """Return the tiles that are new or longer when leaves are appended; nothing that was in a tile changes.

    Args:
        tiles: At least those of ``edge(size)``.
        size: How many leaves the tree has.
        hashes: Of the new leaves, one behind the other (``leaf_hashes``).
    """
    changed: dict[TileKey, bytes] = {}
    level, first = 0, size
    while hashes:
        number, kept = divmod(first, TILE_WIDTH)
        if kept:
            hashes = _held(tiles, TileKey(level, number), kept) + hashes
        complete = []
        for start in range(0, len(hashes), TILE_BYTES):
            tile = hashes[start : start + TILE_BYTES]
            changed[TileKey(level, number)] = tile
            if len(tile) == TILE_BYTES:
                complete.append(_fold(tile))
            number += 1
        level, first, hashes = level + 1, first >> TILE_HEIGHT, b"".join(complete)
    return changed


def root(tiles: Tiles, size: int) -> bytes:
    """Return the root of the first ``size`` leaves, from at least the tiles of ``edge(size)``."""
    return EMPTY_ROOT if size == 0 else span_hash(tiles, Span(0, size))


def inclusion(index: int, size: int) -> list[Span]:
    """Return what proves that leaf ``index`` is in the tree of ``size`` leaves: the siblings on its way up.

    Raises:
        OutOfTree: There is no such leaf.
    """
    if not 0 <= index < size:
        raise OutOfTree(f"a tree of {size} leaves has no leaf {index}")
    path = []
    whole = Span(0, size)
    while whole.end - whole.start > 1:
        middle = whole.start + _split(whole.end - whole.start)
        left, right = Span(whole.start, middle), Span(middle, whole.end)
        whole, sibling = (left, right) if index < middle else (right, left)
        path.append(sibling)
    return path[::-1]


def consistency(old: int, new: int) -> list[Span]:
    """Return what proves that the first ``old`` of ``new`` leaves are the same list; nothing when they are equal.

    Raises:
        OutOfTree: The old tree is empty, which is a prefix of everything, or larger than the new one.
    """
    if not 0 < old <= new:
        raise OutOfTree(f"no tree of {old} leaves can be shown to be the beginning of one of {new}")
    path = []
    whole, known = Span(0, new), True  # ``known``: the old tree's root is that of ``whole``'s own beginning
    while whole.end != old:
        middle = whole.start + _split(whole.end - whole.start)
        left, right = Span(whole.start, middle), Span(middle, whole.end)
        if old <= middle:
            whole, sibling = left, right
        else:
            whole, sibling, known = right, left, False
        path.append(sibling)
    if not known:
        path.append(whole)
    return path[::-1]


def tile_root(tile: bytes) -> bytes:
    """Return the root over a full tile: the hash that the tile above holds of it."""
    return _fold(tile)


def holds_below(tiles: Tiles, key: TileKey) -> bool:
    """Return whether a full tile is the one that the tile above holds the hash of; one that still grows is in none."""
    tile = tiles.get(key, b"")
    if len(tile) < TILE_BYTES:
        return True
    number, place = divmod(key.number, TILE_WIDTH)
    above = tiles.get(TileKey(key.level + 1, number), b"")
    return above[place * HASH_BYTES : (place + 1) * HASH_BYTES] == tile_root(tile)


def tiles_for(spans: Iterable[Span]) -> set[TileKey]:
    """Return the tiles that the hashes of spans are computed from."""
    return {_place(subtree)[0] for span in spans for subtree in _subtrees(span)}


def span_hash(tiles: Tiles, span: Span) -> bytes:
    """Return the hash of a span out of ``inclusion`` or ``consistency``, from at least the tiles it needs."""
    found = b""
    for subtree in reversed(_subtrees(span)):
        key, first, count = _place(subtree)
        part = _held(tiles, key, first + count)[first * HASH_BYTES :]
        whole = _fold(part)
        found = node_hash(whole, found) if found else whole
    return found


def proof(tiles: Tiles, spans: Sequence[Span]) -> list[bytes]:
    """Return the hashes of spans, in their order."""
    return [span_hash(tiles, span) for span in spans]


def _levels(size: int) -> int:
    return (size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT


def _split(size: int) -> int:
    """Return the largest power of two below ``size``, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtrees(span: Span) -> list[Subtree]:
    """Return the complete subtrees of a span, left to right; largest first, as a list is split."""
    found = []
    start, left = span.start, span.end - span.start
    while left:
        height = left.bit_length() - 1
        found.append(Subtree(height, start >> height))
        start += 1 << height
        left -= 1 << height
    return found


def _place(subtree: Subtree) -> tuple[TileKey, int, int]:
    """Return the tile below a subtree, and the first and the number of the hashes in it that make it up."""
    level, rest = divmod(subtree.height, TILE_HEIGHT)
    number, first = divmod(subtree.place << rest, TILE_WIDTH)
    return TileKey(level, number), first, 1 << rest


def _held(tiles: Tiles, key: TileKey, hashes: int) -> bytes:
    """Return the first hashes of a tile."""
    tile = tiles.get(key, b"")
    if len(tile) < hashes * HASH_BYTES:
        raise OutOfTree(f"tile {key.number} of level {key.level} holds {len(tile) // HASH_BYTES} hashes, not {hashes}")
    return tile[: hashes * HASH_BYTES]


def _fold(hashes: bytes) -> bytes:
    """Return the root over a power of two of hashes."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
    return hashes
