"""Checking the log against what it was made of, row by row, as whoever holds the database can.

It finds what was changed, removed or added behind this program's back, and names it. It is the operator's own check: an
outsider believes proofs and the heads that he has kept, not this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from libs.common import merkle
from libs.common.db import ReadConn
from libs.common.merkle import HASH_BYTES, TILE_WIDTH, TileKey
from libs.common.tokens import KeyRing
from services.carbon.domain.attestation import TreeHead
from services.carbon.store.attestation import Kept, Lost, Stray
from services.carbon.usecases.attesting import SIGNER, NotAttested, Transactions

CIRCUITS_AT_ONCE = 10
"""Circuits whose intervals one question looks at: a year of them is 350,000 rows."""
FAULTS_AT_MOST = 1000
"""Named in one answer; the rest shows when these are mended."""
TILES_AT_MOST = 20
"""Tiles of leaves that one question looks at: some hundred milliseconds of work."""


class Rows(Protocol):
    """What is kept of a tree (``store/attestation.py``)."""

    async def fetch_tree_heads(self, conn: ReadConn, tree: date) -> list[TreeHead]:
        """Return all heads of a tree."""

    async def fetch_upper_tiles(self, conn: ReadConn, tree: date) -> dict[TileKey, bytes]:
        """Return the tiles above the lowest, and the last of the lowest."""

    async def fetch_tiles(self, conn: ReadConn, tree: date, keys: Sequence[TileKey]) -> dict[TileKey, bytes]:
        """Return tiles of a tree."""

    async def fetch_leaves(self, conn: ReadConn, tree: date, start: int, end: int) -> dict[int, Kept | Lost]:
        """Return leaves ``[start, end)`` by their index, as they are made from what the books hold now."""

    async def fetch_circuits(self, conn: ReadConn, after: str, limit: int) -> list[str]:
        """Return circuits that have intervals, from behind ``after`` on."""

    async def fetch_stray_intervals(self, conn: ReadConn, circuits: Sequence[str], limit: int) -> list[Stray]:
        """Return intervals that the log does not know, and those that hold without being the last."""

    async def fetch_stray_others(self, conn: ReadConn, limit: int) -> list[Stray]:
        """Return own factors and statements that the log does not know."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was committed."""

    leaf: str | None
    """``<tree>/<index>``; None for the tree itself."""
    subject: str | None
    english: str
    chinese: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a part of a tree has found."""

    tree: date
    first: int
    end: int
    """Leaves ``[first, end)`` were looked at."""
    size: int
    """Leaves of the tree."""
    faults: Sequence[Fault]


@dataclass(frozen=True, slots=True)
class BooksChecked:
    """What a look at a part of the books has found."""

    circuits: Sequence[str]
    """Whose intervals were looked at; fewer than ``CIRCUITS_AT_ONCE`` are the last ones."""
    faults: Sequence[Fault]


class Checks:
    """Looks at the log, and at the books for what it does not know, a part at a time."""

    def __init__(self, *, db: Transactions, rows: Rows, keys: KeyRing) -> None:
        self._db = db
        self._rows = rows
        self._keys = keys

    async def check(self, tree: date, first: int) -> Checked:
        """Compare leaves from ``first`` (of whose tile on) with what they are about; with the first ones, the tree.

        Raises:
            NotAttested: There is no such tree.
        """
        async with self._db.read() as conn:
            upper = await self._rows.fetch_upper_tiles(conn, tree)
            heads = await self._rows.fetch_tree_heads(conn, tree)
            size = max([_size(upper), *(head.size for head in heads)])
            if size == 0:
                raise NotAttested(f"there is no tree {tree}", message_zh=f"没有树 {tree}")
            start = first - first % TILE_WIDTH
            end = min(start + TILES_AT_MOST * TILE_WIDTH, size)
            faults = await self._tree_faults(conn, tree, size, upper, heads) if start == 0 else []
            for tile in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
                faults += await self._tile_faults(conn, tree, tile, min((tile + 1) * TILE_WIDTH, size), upper)
        return Checked(tree, min(start, size), max(end, min(start, size)), size, faults)

    async def check_books(self, after: str) -> BooksChecked:
        """Look for rows that were never committed: of circuits behind ``after``; before them, of everything else."""
        async with self._db.read() as conn:
            circuits = await self._rows.fetch_circuits(conn, after, CIRCUITS_AT_ONCE)
            strays = [] if after else await self._rows.fetch_stray_others(conn, FAULTS_AT_MOST)
            strays += await self._rows.fetch_stray_intervals(conn, circuits, FAULTS_AT_MOST)
        return BooksChecked(circuits, [_of_stray(one) for one in strays])

    async def _tile_faults(
        self, conn: ReadConn, tree: date, number: int, end: int, upper: dict[TileKey, bytes]
    ) -> list[Fault]:
        key, start = TileKey(0, number), number * TILE_WIDTH
        tiles = upper | await self._rows.fetch_tiles(conn, tree, [key])
        leaves = await self._rows.fetch_leaves(conn, tree, start, end)
        hashes = tiles.get(key, b"")
        faults = []
        for index in range(start, end):
            place = f"{tree}/{index}"
            kept = leaves.get(index)
            committed = hashes[(index - start) * HASH_BYTES :][:HASH_BYTES]
            if kept is None:
                faults.append(Fault(place, None, "its row is missing", "该行缺失"))
            elif isinstance(kept, Lost):
                faults.append(Fault(place, kept.subject, f"what it was about is gone: {kept.what}",
                                    f"其所指数据已不存在:{kept.what}"))  # fmt: skip
            elif merkle.leaf_hash(bytes.fromhex(kept.leaf.commitment)) != committed:
                fact = kept.leaf.fact
                faults.append(
                    Fault(place, fact.subject,
                          f"{fact.at.isoformat()}, version {fact.version}: it is no longer what was committed",
                          f"{fact.at.isoformat()},版本 {fact.version}:与当时提交的内容不符")
                )  # fmt: skip
        if not merkle.holds_below(tiles, key):
            faults.append(_of_tree(f"tile {number} of level 0 is not the one below level 1",
                                   f"第 0 层数据块 {number} 与第 1 层不符"))  # fmt: skip
        return faults

    async def _tree_faults(
        self, conn: ReadConn, tree: date, size: int, upper: dict[TileKey, bytes], heads: Sequence[TreeHead]
    ) -> list[Fault]:
        faults = [
            _of_tree(f"tile {key.number} of level {key.level} is not the one below level {key.level + 1}",
                     f"第 {key.level} 层数据块 {key.number} 与上一层不符")
            for key in sorted(upper) if key.level and not merkle.holds_below(upper, key)
        ]  # fmt: skip
        edges = {key for head in heads for key in merkle.edge(head.size)}
        tiles = upper | await self._rows.fetch_tiles(conn, tree, sorted(edges))
        own = self._keys.key_id(SIGNER)
        for head in heads:
            try:
                holds = merkle.root(tiles, head.size) == head.root
            except merkle.OutOfTree:
                holds = False
            if not holds:
                faults.append(_of_tree(f"head {tree}/{head.size} is not the root of the leaves that are kept",
                                       f"树头 {tree}/{head.size} 与现存叶子的根不符"))  # fmt: skip
            # Of a former key only its public half is left, with whoever verifies.
            if head.key == own and not self._keys.verify_bytes(SIGNER, head.signed_bytes(), head.signature):
                faults.append(_of_tree(f"the signature of head {tree}/{head.size} does not hold",
                                       f"树头 {tree}/{head.size} 的签名不成立"))  # fmt: skip
        return faults


def _of_stray(one: Stray) -> Fault:
    place = f"version {one.version}" if one.at is None else f"{one.at.isoformat()}, version {one.version}"
    place_zh = f"版本 {one.version}" if one.at is None else f"{one.at.isoformat()},版本 {one.version}"
    if one.is_committed:
        return Fault(
            None, one.subject, f"{place}: another version holds than the last one", f"{place_zh}:生效的不是最新版本"
        )
    return Fault(None, one.subject, f"{place}: it was never committed", f"{place_zh}:从未存证")


def _of_tree(english: str, chinese: str) -> Fault:
    return Fault(None, None, english, chinese)


def _size(upper: dict[TileKey, bytes]) -> int:
    """Return how many leaves the lowest tiles hold."""
    last = max((key.number for key in upper if key.level == 0), default=None)
    return 0 if last is None else last * TILE_WIDTH + len(upper[TileKey(0, last)]) // HASH_BYTES
