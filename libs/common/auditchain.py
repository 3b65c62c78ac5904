"""The chain of an audit: every entry carries the hash of the one before, so none is changed, removed or moved unseen.

An entry's hash is the SHA-256 of its canonical JSON (``tokens.canonical``: sorted keys, compact, UTF-8, the style of
RFC 8785) with its number and the hash before it among the fields, and without its own. Numbers begin with 1 and have no
hole. Who keeps the audit signs the head (number, hash, time) now and then and publishes it elsewhere: cutting off the
end, or computing the whole chain anew, shows against a head that somebody else has.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from libs.common.tokens import KeyRing, canonical

GENESIS = "0" * 64
"""Stands before the first entry."""
FIELDS = (
    "seq", "entry_id", "at", "actor", "door", "action", "subject", "reason", "succeeded", "before", "after", "previous",
    "hash",
)  # fmt: skip
"""Of one entry as it is exported, in the order of the columns."""
HEAD = "audit_head"
"""What a signed head calls itself, so that its signature stands for nothing else."""


class Broken(Exception):
    """The chain does not hold."""

    def __init__(self, seq: int | None, english: str, chinese: str) -> None:
        """Name what is wrong, in two languages.

        Args:
            seq: Number of the first entry that is wrong or missing; None where it has none.
            english: What is wrong with it.
            chinese: The same.
        """
        super().__init__(english)
        self.seq = seq
        self.english = english
        self.chinese = chinese


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain at a time, under the signature of whoever keeps it."""

    seq: int
    hash: str
    at: str
    """When it was signed, RFC 3339."""
    signature: str

    @classmethod
    def signed(cls, keys: KeyRing, signer: str, seq: int, digest: str, at: datetime) -> "Head":
        """Return a head under the signature of ``signer``."""
        when = at.isoformat()
        return cls(seq, digest, when, keys.sign_bytes(signer, _head_bytes(seq, digest, when)))

    @classmethod
    def read(cls, raw: object) -> "Head":
        """Read what ``as_json`` has written.

        Raises:
            Broken: It is no head.
        """
        if isinstance(raw, Mapping):
            seq, digest, at, signature = (raw.get(name) for name in ("seq", "hash", "at", "signature"))
            if isinstance(seq, int) and isinstance(digest, str) and isinstance(at, str) and isinstance(signature, str):
                return cls(seq, digest, at, signature)
        raise Broken(None, "the head cannot be read", "链头无法读取")

    def as_json(self) -> dict[str, object]:
        """Return the head as it is published."""
        return {"seq": self.seq, "hash": self.hash, "at": self.at, "signature": self.signature}

    def holds(self, keys: KeyRing, signer: str) -> bool:
        """Return whether the signature is that of ``signer``."""
        return keys.verify_bytes(signer, _head_bytes(self.seq, self.hash, self.at), self.signature)


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that holds."""

    first: int
    """Number of the first entry; the chain before it was not there to be looked at unless it is 1."""
    last: int
    hash: str
    """Of the last entry."""
    head: Head | None
    """What an export says of the whole chain at its end."""


def digest_of(entry: Mapping[str, Any], previous: str) -> str:
    """Return the hash of an entry behind ``previous``, in hexadecimal.

    Raises:
        ValueError: The entry has a number that is not finite, or a time without a zone.
    """
    fields = {name: value for name, value in entry.items() if name != "hash"}
    return hashlib.sha256(canonical({**fields, "previous": previous})).hexdigest()


def verify(lines: Iterable[Mapping[str, Any]], heads: Sequence[Head] = ()) -> Verified:
    """Check entries in their order, and known heads against them.

    Args:
        lines: Entries; a last one ``{"head": …}`` is what the export says of the chain's end.
        heads: Heads that were published earlier; those beyond both ends are left alone, and so is their signature.

    Raises:
        Broken: An entry was changed, moved or removed; the first one is named.
    """
    known = {head.seq: head.hash for head in heads}
    first: int | None = None
    seq, previous = 0, GENESIS
    end: Head | None = None
    for line in lines:
        if end is not None:
            raise Broken(seq + 1, f"an entry stands behind the head after {seq}", f"第 {seq} 条之后的链头后面还有记录")
        if "head" in line:
            end = Head.read(line["head"])
            continue
        found = line.get("seq")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise Broken(seq + 1, f"the entry behind {seq} has no number", f"第 {seq} 条之后的记录没有序号")
        if first is None:
            first, seq = found, found - 1
            previous = GENESIS if found == 1 else str(line.get("previous"))
        if found != seq + 1:
            raise Broken(seq + 1, f"entry {seq + 1} is missing: behind {seq} comes {found}",
                         f"缺少第 {seq + 1} 条:第 {seq} 条之后是第 {found} 条")  # fmt: skip
        seq = found
        if line.get("previous") != previous:
            raise Broken(seq, f"entry {seq} does not continue the one before it", f"第 {seq} 条与前一条不衔接")
        try:
            digest = digest_of(line, previous)
        except ValueError:
            digest = ""
        if line.get("hash") != digest:
            raise Broken(seq, f"entry {seq} was changed: its hash is another one", f"第 {seq} 条被改动:散列值不符")
        if known.get(seq, digest) != digest:
            raise Broken(
                seq, f"entry {seq} is not the one that was published as head", f"第 {seq} 条与已公布的链头不符"
            )
        previous = digest
    if first is None:
        first, seq = 1, 0
    _check_end(seq, previous, end)
    return Verified(first, seq, previous, end)


def _check_end(seq: int, digest: str, end: Head | None) -> None:
    if end is None:
        return
    if end.seq < seq or (end.seq == seq and end.hash != digest):
        raise Broken(seq, f"the head, {end.seq}, is not the last entry, {seq}", f"链头 {end.seq} 与末条 {seq} 不符")


def read_ndjson(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Yield the entries of an export in JSON lines.

    Raises:
        Broken: A line is no JSON object.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise Broken(None, f"line {number}: no JSON object", f"第 {number} 行不是 JSON 对象")
        yield found


def read_csv(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of an export in CSV; an empty cell is null, ``before`` and ``after`` are JSON in a cell.

    Raises:
        Broken: The columns are others, or a cell cannot be read.
    """
    rows = csv.reader(lines)
    if tuple(next(rows, ())) != FIELDS:
        raise Broken(None, f"expected the columns {', '.join(FIELDS)}", f"列应为 {'、'.join(FIELDS)}")
    for number, row in enumerate(rows, 2):
        try:
            found: dict[str, Any] = dict(zip(FIELDS, (cell or None for cell in row), strict=True))
            found["seq"] = int(found["seq"])
            found["succeeded"] = {"true": True, "false": False}[found["succeeded"]]
            for name in ("before", "after"):
                found[name] = None if found[name] is None else orjson.loads(found[name])
        except (ValueError, TypeError, KeyError):
            raise Broken(None, f"row {number} cannot be read", f"第 {number} 行无法读取") from None
        yield found


def _head_bytes(seq: int, digest: str, at: str) -> bytes:
    return canonical({"kind": HEAD, "seq": seq, "hash": digest, "at": at})
