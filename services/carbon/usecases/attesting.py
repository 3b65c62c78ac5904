"""Attesting: what was booked is committed, the day's tree grows, its head is signed and told; and proofs of it.

Everything of a turn is one transaction: the facts leave the list of those that wait, their leaves, the tiles, the ends
of chains and a head are there, or none of it is. So a crash at any place leaves the log as it was before the turn, and
the turn is made again, with other salts, which nobody has seen the first of.

Before a head is signed the one before it is computed again from the tiles. A log that has lost or changed something
(a disk, a restored backup, a hand) is never signed as if it had not: two signed histories are what outsiders look for.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Protocol

from libs.common import merkle
from libs.common.clock import Clock
from libs.common.db import ReadConn, WriteConn
from libs.common.errors import Conflict, Forbidden, NotFound
from libs.common.merkle import TileKey
from libs.common.tokens import KeyRing
from services.carbon.domain import attestation
from services.carbon.domain.attestation import SALT_BYTES, Fact, Kind, Leaf, Link, TreeHead, commit, head_fact, tree_of
from services.carbon.domain.factors import EmissionFactor
from services.carbon.store.attestation import FactsGone, Kept, LogRefused, LogRow

logger = logging.getLogger(__name__)

SIGNER = "carbon"
AT_ONCE = 2000
"""Facts committed in one transaction: some hundred milliseconds of work, half of it in a thread."""
DAYS_AT_MOST = 400
"""Trees between the two heads of one consistency proof."""
CHAIN_AT_MOST = 10_000
"""Leaves of one subject in one answer."""


Sees = Callable[[Fact], bool]
"""Whether whoever asks may see what a leaf says."""


def sees_all(_: Fact) -> bool:
    """Let everything be seen."""
    return True


class LogDamaged(Conflict):
    """The log no longer contains what was signed."""

    code = "log_damaged"
    title_zh = "存证日志已损坏"


class NotAttested(NotFound):
    """There is no leaf, or no head, of what was asked for."""

    code = "not_attested"
    title_zh = "尚未存证"


class Transactions(Protocol):
    """Where connections come from (``libs.common.db.Database``)."""

    def read(self) -> AbstractAsyncContextManager[ReadConn]:
        """Yield a connection for statements that change nothing."""

    def write(self) -> AbstractAsyncContextManager[WriteConn]:
        """Yield a connection in one transaction, committed when the block ends without an error."""


class Log(Protocol):
    """Where the log is kept (``store/attestation.py``)."""

    async def add_facts(self, conn: WriteConn, facts: Sequence[Fact]) -> None:
        """Ask for facts to be committed."""

    async def lock_log(self, conn: WriteConn) -> LogRow:
        """Lock the log's end."""

    async def set_log(self, conn: WriteConn, log: LogRow) -> None:
        """Note where the log ends."""

    async def take_facts(self, conn: WriteConn, limit: int) -> list[Fact]:
        """Take facts off the list of those that wait."""

    async def fetch_ends(self, conn: WriteConn, subjects: Collection[str]) -> dict[str, Link]:
        """Return where chains end."""

    async def set_ends(self, conn: WriteConn, ends: Mapping[str, Link]) -> None:
        """Note where chains end."""

    async def fetch_places(
        self, conn: WriteConn, names: Sequence[tuple[str, datetime, int]]
    ) -> dict[tuple[str, datetime, int], str]:
        """Return the leaves of facts by subject, time and version."""

    async def append_leaves(self, conn: WriteConn, tree: date, first: int, leaves: Sequence[Leaf]) -> None:
        """Append leaves to a tree."""

    async def fetch_tiles(
        self, conn: ReadConn | WriteConn, tree: date, keys: Iterable[TileKey]
    ) -> dict[TileKey, bytes]:
        """Return tiles of a tree."""

    async def put_tiles(self, conn: WriteConn, tree: date, tiles: Mapping[TileKey, bytes]) -> None:
        """Add tiles, or make them longer."""

    async def add_head(self, conn: WriteConn, head: TreeHead) -> None:
        """Append a signed head."""

    async def fetch_last_head(self, conn: ReadConn | WriteConn, tree: date | None = None) -> TreeHead | None:
        """Return the newest head, of one tree or of all."""

    async def fetch_head(self, conn: ReadConn, tree: date, size: int) -> TreeHead | None:
        """Return the head of a tree at a size."""

    async def fetch_heads(self, conn: ReadConn, start: date, end: date, limit: int) -> list[TreeHead]:
        """Return the heads of trees ``[start, end]``."""

    async def fetch_closing_heads(self, conn: ReadConn, start: date, end: date) -> list[TreeHead]:
        """Return the heads that closed trees of ``[start, end)``."""

    async def fetch_leaf(self, conn: ReadConn, subject: str, at: datetime | None, version: int | None) -> Kept | None:
        """Return the leaf about a subject, at a time and of a version; the last of those that fit."""

    async def fetch_leaf_at(self, conn: ReadConn, tree: date, index: int) -> Kept | None:
        """Return a leaf by its place."""

    async def fetch_chain(self, conn: ReadConn, subject: str, after: int, limit: int) -> list[Kept]:
        """Return the leaves of a subject in the order of its chain."""

    async def fetch_known(self, conn: WriteConn, kind: Kind) -> dict[tuple[str, int], Fact]:
        """Return the last fact of a kind by subject and version, of those that are kept in the log itself."""


class Publisher(Protocol):
    """How a head becomes known, in the transaction that signs it (``bus.py``)."""

    async def head(self, conn: WriteConn, head: TreeHead) -> None:
        """Tell the world where the log stands."""


class Attesting:
    """Makes the log; one process does it at a time, and two at once would wait for each other at its end."""

    def __init__(
        self, *, db: Transactions, log: Log, publisher: Publisher, clock: Clock, keys: KeyRing, head_every_s: float
    ) -> None:
        self._db = db
        self._log = log
        self._publisher = publisher
        self._clock = clock
        self._keys = keys
        self._head_every = timedelta(seconds=head_every_s)

    async def turn(self) -> bool:
        """Commit what waits, sign a head when it is time; return whether there may be more.

        Raises:
            LogDamaged: The log no longer contains what was signed; nothing is committed until a person has looked.
        """
        async with self._db.write() as conn:
            before = await self._log.lock_log(conn)
            end = await self._day(conn, before)
            facts = await self._log.take_facts(conn, AT_ONCE)
            if facts:
                end = await self._append(conn, end, facts)
            await self._sign_in_time(conn, end)
            if end != before:
                await self._log.set_log(conn, end)
        return len(facts) >= AT_ONCE

    async def note_factors(self, factors: Sequence[EmissionFactor]) -> int:
        """Ask for rows of the shipped library to be committed that are new or changed; return how many."""
        now = self._clock.now()
        async with self._db.write() as conn:
            await self._log.lock_log(conn)
            known = await self._log.fetch_known(conn, Kind.FACTOR)
            tables = await self._log.fetch_known(conn, Kind.FACTOR_TABLE)
            news = attestation.changed_factors(factors, known, now)
            table = attestation.changed_table(factors, tables, now)
            if news or table:
                await self._log.add_facts(conn, [*news, *table])
        return len(news)

    async def _day(self, conn: WriteConn, end: LogRow) -> LogRow:
        """Close the tree of a day that is over and begin the next one with its head."""
        tree = tree_of(self._clock.now(), end.tree)
        if end.tree == tree:
            return end
        if end.tree is None or end.size == 0:
            return LogRow(tree, 0)
        closed = await self._sign(conn, LogRow(end.tree, end.size), final=True)
        return await self._append(conn, LogRow(tree, 0), [head_fact(closed)])

    async def _append(self, conn: WriteConn, end: LogRow, facts: Sequence[Fact]) -> LogRow:
        assert end.tree is not None  # noqa: S101 - a tree was begun before anything is appended
        ends = await self._log.fetch_ends(conn, {fact.subject for fact in facts})
        places = await self._log.fetch_places(conn, [name for fact in facts for name in _corrected(fact)])
        edge = await self._log.fetch_tiles(conn, end.tree, merkle.edge(end.size))
        try:
            made = await asyncio.to_thread(_made, facts, ends, places, edge, end)
            await self._log.append_leaves(conn, end.tree, end.size, made.leaves)
            await self._log.put_tiles(conn, end.tree, made.tiles)
        except (merkle.OutOfTree, LogRefused) as exc:
            raise LogDamaged(
                f"tree {end.tree} cannot go on at leaf {end.size}: {exc}; it stands until a person has looked",
                message_zh=f"树 {end.tree} 无法在第 {end.size} 个叶子处继续:{exc};在人工核查之前不再存证",
            ) from exc
        await self._log.set_ends(conn, made.ends)
        return replace(end, size=end.size + len(facts))

    async def _sign_in_time(self, conn: WriteConn, end: LogRow) -> None:
        if end.size == 0:
            return
        last = await self._log.fetch_last_head(conn, end.tree)
        if last is not None and (last.size == end.size or self._clock.now() - last.at < self._head_every):
            return
        await self._sign(conn, end, final=False)

    async def _sign(self, conn: WriteConn, end: LogRow, *, final: bool) -> TreeHead:
        assert end.tree is not None  # noqa: S101 - only a tree that was begun is signed
        last = await self._log.fetch_last_head(conn, end.tree)
        needed = {*merkle.edge(end.size), *(() if last is None else merkle.tiles_for([merkle.Span(0, last.size)]))}
        tiles = await self._log.fetch_tiles(conn, end.tree, needed)
        try:
            root = merkle.root(tiles, end.size)
            holds = last is None or (last.size <= end.size and merkle.root(tiles, last.size) == last.root)
        except merkle.OutOfTree:
            holds = False
        if not holds:
            raise LogDamaged(
                f"tree {end.tree}: what was signed is no longer what is kept; nothing is signed until a person has "
                "looked",
                message_zh=f"树 {end.tree}:已签名的内容与现存内容不符;在人工核查之前不再签名",
            )
        key = self._keys.key_id(SIGNER)
        if last is not None and last.key != key:
            logger.warning("heads are signed under another key from now on", extra={"key": key, "before": last.key})
        unsigned = TreeHead(end.tree, end.size, root, self._clock.now(), final, key)
        head = replace(unsigned, signature=self._keys.sign_bytes(SIGNER, unsigned.signed_bytes()))
        await self._log.add_head(conn, head)
        await self._publisher.head(conn, head)
        return head


class Proofs:
    """Answers what was committed, with the documents that ``verifier.py`` reads."""

    def __init__(self, *, db: Transactions, log: Log) -> None:
        self._db = db
        self._log = log

    async def heads(self, start: date, end: date, limit: int) -> list[dict[str, Any]]:
        """Return the signed heads of trees ``[start, end]``, the oldest first."""
        async with self._db.read() as conn:
            return [head.as_json() for head in await self._log.fetch_heads(conn, start, end, limit)]

    async def latest(self) -> dict[str, Any]:
        """Return the newest head as a document.

        Raises:
            NotAttested: There is none yet.
        """
        async with self._db.read() as conn:
            return {"type": "head", "head": (await self._newest(conn)).as_json()}

    async def inclusion(
        self, subject: str, at: datetime | None, version: int | None, *, sees: Sees = sees_all
    ) -> dict[str, Any]:
        """Return the proof that a fact was committed, under the newest head of its tree; the last fact that fits.

        Raises:
            NotAttested: It was not, or no head covers it yet.
            LogDamaged: It was, and is no longer there.
            Forbidden: It is not for whoever asks.
        """
        async with self._db.read() as conn:
            kept = await _whole(self._log.fetch_leaf(conn, subject, at, version))
            _require(sees, [kept])
            return await self._included(conn, kept)

    async def inclusion_at(self, tree: date, index: int, *, sees: Sees = sees_all) -> dict[str, Any]:
        """Return the proof that a leaf, by its place, was committed; raises like ``inclusion``."""
        async with self._db.read() as conn:
            kept = await _whole(self._log.fetch_leaf_at(conn, tree, index))
            _require(sees, [kept])
            return await self._included(conn, kept)

    async def consistency(self, old: tuple[date, int], new: tuple[date, int] | None) -> dict[str, Any]:
        """Return the proof that what one head covered is unchanged under a later one, by default the newest.

        Raises:
            NotAttested: One of the heads was never signed, or the first is not the earlier one.
        """
        async with self._db.read() as conn:
            first = await self._signed(conn, old)
            last = await self._newest(conn) if new is None else await self._signed(conn, new)
            if (first.tree, first.size) > (last.tree, last.size):
                raise NotAttested("the second head is earlier than the first", message_zh="第二个树头早于第一个")
            between = await self._log.fetch_closing_heads(conn, first.tree, last.tree)
            if len(between) > DAYS_AT_MOST:
                raise NotAttested(
                    f"more than {DAYS_AT_MOST} trees lie between; ask in parts",
                    message_zh=f"两者之间超过 {DAYS_AT_MOST} 棵树;请分段查询",
                )
            until = between[0] if between else last
            path = await self._proof(conn, until.tree, merkle.consistency(first.size, until.size))
            found: dict[str, Any] = {
                "type": "consistency", "old": first.as_json(), "new": last.as_json(), "path": path, "days": [],
            }  # fmt: skip
            if between:
                found["closed"] = until.as_json()
                found["days"] = [await self._first_leaf(conn, head) for head in [*between[1:], last]]
            return found

    async def chain(self, subject: str, after: int, limit: int, *, sees: Sees = sees_all) -> dict[str, Any]:
        """Return the leaves of a subject behind number ``after``, as a document.

        Raises:
            NotAttested: There are none.
            LogDamaged: What one of them was about is gone.
            Forbidden: One of them is not for whoever asks.
        """
        async with self._db.read() as conn:
            try:
                found = await self._log.fetch_chain(conn, subject, after, min(limit, CHAIN_AT_MOST))
            except FactsGone as exc:
                raise _gone(exc) from None
        if not found:
            raise NotAttested(
                f"{subject} has no leaves behind {after}", message_zh=f"{subject} 在 {after} 之后没有叶子"
            )
        _require(sees, found)
        return {
            "type": "chain", "subject": subject, "entries": [one.leaf.text for one in found],
            "places": [f"{one.tree}/{one.index}" for one in found],
        }  # fmt: skip

    async def _included(self, conn: ReadConn, kept: Kept) -> dict[str, Any]:
        head = await self._log.fetch_last_head(conn, kept.tree)
        if head is None or head.size <= kept.index:
            raise NotAttested(
                "it is committed, and the next head will cover it: no head has been signed since",
                message_zh="已提交,将由下一个树头覆盖:此后尚未签发树头",
            )
        return {
            "type": "inclusion", "leaf": kept.leaf.text, "index": kept.index, "head": head.as_json(),
            "path": await self._proof(conn, kept.tree, merkle.inclusion(kept.index, head.size)),
        }  # fmt: skip

    async def _first_leaf(self, conn: ReadConn, head: TreeHead) -> dict[str, Any]:
        kept = await _whole(self._log.fetch_leaf_at(conn, head.tree, 0))
        path = await self._proof(conn, head.tree, merkle.inclusion(0, head.size))
        return {"leaf": kept.leaf.text, "head": head.as_json(), "path": path}

    async def _proof(self, conn: ReadConn, tree: date, spans: Sequence[merkle.Span]) -> list[str]:
        tiles = await self._log.fetch_tiles(conn, tree, merkle.tiles_for(spans))
        try:
            return [one.hex() for one in merkle.proof(tiles, spans)]
        except merkle.OutOfTree as exc:
            raise LogDamaged(f"tree {tree}: {exc}", message_zh=f"树 {tree} 的数据块缺失") from exc

    async def _newest(self, conn: ReadConn) -> TreeHead:
        head = await self._log.fetch_last_head(conn)
        if head is None:
            raise NotAttested("no head has been signed yet", message_zh="尚未签发任何树头")
        return head

    async def _signed(self, conn: ReadConn, place: tuple[date, int]) -> TreeHead:
        head = await self._log.fetch_head(conn, *place)
        if head is None:
            raise NotAttested(
                f"no head {place[0]}/{place[1]} was signed", message_zh=f"未签发过树头 {place[0]}/{place[1]}"
            )
        return head


@dataclass(frozen=True, slots=True)
class _Made:
    leaves: list[Leaf]
    ends: dict[str, Link]
    tiles: dict[TileKey, bytes]


def _corrected(fact: Fact) -> list[tuple[str, datetime, int]]:
    """Return what a fact may correct, nearest first: itself, said otherwise, and the version before it."""
    if fact.kind is Kind.INTERVAL and fact.version == 1:
        return []  # nearly all there are: a version of an interval is booked once
    return [(fact.subject, fact.at, version) for version in (fact.version, fact.version - 1)]


def _made(
    facts: Sequence[Fact],
    ends: Mapping[str, Link],
    places: Mapping[tuple[str, datetime, int], str],
    edge: Mapping[TileKey, bytes],
    end: LogRow,
) -> _Made:
    """Hash a batch; what one of its facts corrects may stand in it too."""
    corrected: dict[int, str] = {}
    here: dict[tuple[str, datetime, int], str] = {}
    for number, fact in enumerate(facts):
        found = [place for name in _corrected(fact) if (place := here.get(name) or places.get(name)) is not None]
        if found:
            corrected[number] = found[0]
        here[(fact.subject, fact.at, fact.version)] = f"{end.tree}/{end.size + number}"
    leaves = commit(facts, ends, secrets.token_bytes(SALT_BYTES * len(facts)), corrected)
    hashes = merkle.leaf_hashes(bytes.fromhex(leaf.commitment) for leaf in leaves)
    news = {leaf.fact.subject: Link(leaf.seq, leaf.commitment) for leaf in leaves}
    return _Made(leaves, news, merkle.extend(edge, end.size, hashes))


def _require(sees: Sees, leaves: Sequence[Kept]) -> None:
    if not all(sees(one.leaf.fact) for one in leaves):
        raise Forbidden("it is outside your part of the site tree", message_zh="不在您的站点权限范围内")


async def _whole(found: Any) -> Kept:
    """Return the leaf that a query finds."""
    try:
        kept: Kept | None = await found
    except FactsGone as exc:
        raise _gone(exc) from None
    if kept is None:
        raise NotAttested("nothing was committed about that", message_zh="没有相关的存证")
    return kept


def _gone(exc: FactsGone) -> LogDamaged:
    return LogDamaged(f"committed, and no longer there: {exc}", message_zh=f"已存证,但原数据已不存在:{exc}")
