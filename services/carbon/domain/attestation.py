"""What is committed, and how: leaves about intervals, factors, reports and the heads of earlier trees.

A leaf is a set of named facts about one *subject* in canonical JSON (``tokens.canonical``), with a random salt, because
readings can be guessed, with its number in the subject's own chain, and with the commitment before it there. Its
commitment is the digest of an audit chain (``auditchain.digest_of``), so a subject's leaves are one, and
``auditchain.verify`` reads it. Numbers with fractions are decimal texts: two programs write one float in two ways.

Commitments are the leaves of the Merkle tree of the civil day on which they arrived, whatever day they are about. A
head is the tree's size and root under a signature; the last one of a day closes its tree and is leaf 0 of the next.
What is corrected stays: the correction is a leaf of its own that names the one that it corrects.

It proves when something was committed and that it has not changed since. It does not prove that a meter was right, that
its ratio is true, or that nothing was left out.

Source:
    The platform's energy methods, section 20; RFC 6962 and RFC 9162, section 2.1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from libs.common.auditchain import GENESIS, digest_of
from libs.common.clock import CIVIL_ZONE
from libs.common.ids import CircuitId
from libs.common.tokens import canonical
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.media import MediumPoint
from services.carbon.domain.statements import Stated

SALT_BYTES = 16
HEAD_KIND = "tree_head"
HEADS = "log:heads"
"""Subject of the heads that begin a tree."""
FACTOR_TABLE = "factors:shipped"
"""Subject of the shipped factor library as a whole."""
CIRCUIT, MEDIUM, FACTOR, REPORT = "circuit:", "medium:", "factor:", "report:"
"""What the other subjects begin with; of a medium follow register and circuit, of a report its kind and its id."""
NAMELESS = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for the time of what is named by subject and version alone."""

Fields = Mapping[str, Any]
"""Facts of a leaf: texts, whole numbers, times, truth values, null, and lists and mappings of them."""


class Kind(StrEnum):
    """What a leaf is about."""

    INTERVAL = "interval"
    FACTOR = "factor"
    FACTOR_TABLE = "factor_table"
    REPORT = "report"
    HEAD = "head"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is to be committed."""

    kind: Kind
    subject: str
    """Kind and id, such as ``circuit:c-1``; its facts are one chain."""
    at: datetime
    """With ``version`` its name within the subject: an interval's start, else ``NAMELESS``."""
    version: int
    """A later one corrects the one before it, which stays."""
    fields: Fields


@dataclass(frozen=True, slots=True)
class Link:
    """Where a subject's chain ends."""

    seq: int
    commitment: str
    """In hexadecimal."""


BEGINNING = Link(0, GENESIS)
Known = Mapping[tuple[str, int], Fact]
"""The last fact by subject and version."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A fact as it was committed."""

    fact: Fact
    seq: int
    salt: bytes
    entry: Mapping[str, Any]
    """What is hashed: the facts, and ``kind, subject, version, seq, previous, salt`` and ``corrects``."""
    commitment: str
    """SHA-256 of the canonical text of ``entry``, in hexadecimal."""

    @classmethod
    def of(cls, fact: Fact, *, end: Link, salt: bytes, corrects: str | None = None) -> "Leaf":
        """Return the leaf of a fact.

        Args:
            fact: What is committed.
            end: Where its subject's chain ended before it.
            salt: ``SALT_BYTES`` random bytes.
            corrects: The leaf that it replaces, as ``<tree>/<index>``; that one stays.
        """
        entry = {
            **fact.fields,
            "kind": fact.kind.value,
            "subject": fact.subject,
            "version": fact.version,
            "seq": end.seq + 1,
            "previous": end.commitment,
            "salt": salt.hex(),
        }
        if corrects is not None:
            entry["corrects"] = corrects
        return cls(fact, end.seq + 1, salt, entry, digest_of(entry, end.commitment))

    @property
    def text(self) -> str:
        """The canonical text, as a proof shows it."""
        return canonical(self.entry).decode()


@dataclass(frozen=True, slots=True)
class TreeHead:
    """Size and root of a tree, not yet or already signed."""

    tree: date
    size: int
    root: bytes
    at: datetime
    final: bool
    key: str
    """SHA-256 of the public key that it is signed under, in hexadecimal."""
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """Return what the signature is over."""
        return canonical(self._fields())

    def as_json(self) -> dict[str, Any]:
        """Return the head as it is published."""
        return {**self._fields(), "signature": self.signature}

    def _fields(self) -> dict[str, Any]:
        return {
            "kind": HEAD_KIND,
            "tree": self.tree.isoformat(),
            "size": self.size,
            "root": self.root.hex(),
            "at": _time(self.at),
            "final": self.final,
            "key": self.key,
        }


def commit(facts: Sequence[Fact], ends: Mapping[str, Link], salts: bytes, corrected: Mapping[int, str]) -> list[Leaf]:
    """Return the leaves of facts, each behind the last of its subject.

    Args:
        facts: In the order in which they are committed.
        ends: Where the chains of their subjects end; a subject that is not in it begins one.
        salts: ``SALT_BYTES`` random bytes for each fact.
        corrected: The leaf that a fact corrects, by the fact's place in ``facts``.

    Raises:
        ValueError: There is not a salt for each.
    """
    if len(salts) != SALT_BYTES * len(facts):
        raise ValueError(f"{len(facts)} facts need {SALT_BYTES * len(facts)} random bytes, not {len(salts)}")
    ended = dict(ends)
    leaves = []
    for place, fact in enumerate(facts):
        end = ended.get(fact.subject, BEGINNING)
        salt = salts[place * SALT_BYTES : (place + 1) * SALT_BYTES]
        leaf = Leaf.of(fact, end=end, salt=salt, corrects=corrected.get(place))
        ended[fact.subject] = Link(leaf.seq, leaf.commitment)
        leaves.append(leaf)
    return leaves


def tree_of(now: datetime, running: date | None) -> date:
    """Return the tree that takes what arrives now: that of the civil day, unless a later one has begun already."""
    today = now.astimezone(CIVIL_ZONE).date()
    return today if running is None else max(today, running)


def medium_subject(point: str, circuit: CircuitId) -> str:
    """Return the subject of what a register of another medium than electricity says of a circuit."""
    return f"{MEDIUM}{point}/{circuit}"


def interval_fact(booked: BookedInterval, medium: MediumPoint | None = None) -> Fact:
    """Return the fact that a version of an interval was booked.

    The flag ``measured`` and the registers behind it are the platform's word; the leaf only fixes it.

    Args:
        booked: The version.
        medium: Of what it is; None for electricity.
    """
    fields: dict[str, Any] = {
        "site": booked.site_id,
        "start": _time(booked.start),
        "end": _time(booked.start + timedelta(seconds=booked.step_s)),
        "value": None if booked.energy_kwh is None else decimal_text(booked.energy_kwh),
        "unit": "kWh" if medium is None else medium.unit,
        "flag": booked.grade.flag,
        "lower_bound": booked.lower_bound,
        "uncertain": booked.uncertain,
        "source": "carbon.intervals",
        "received_at": _time(booked.computed_at),
    }
    if booked.version > 1:
        fields |= {"author": "service:carbon", "reason": "recomputed from registers"}
    subject = f"{CIRCUIT}{booked.circuit_id}"
    if medium is not None:
        fields |= {"medium": medium.medium.value, "point": medium.point, "circuit": booked.circuit_id}
        subject = medium_subject(medium.point, booked.circuit_id)
    return Fact(Kind.INTERVAL, subject, booked.start, booked.version, fields)


def changed_factors(factors: Iterable[EmissionFactor], known: Known, now: datetime) -> list[Fact]:
    """Return the facts that shipped rows of the library are new, or other than when they were committed last.

    Args:
        factors: The rows that ship.
        known: What was committed of them.
        now: Since when the library holds what is new.
    """
    facts = []
    for one in factors:
        fact = factor_fact(one)
        last = known.get((fact.subject, fact.version))
        if last is not None and {name: last.fields.get(name) for name in fact.fields} == dict(fact.fields):
            continue
        said = {**fact.fields, "received_at": _time(now)}
        if last is not None:
            said |= {"author": "service:carbon", "reason": "library changed"}
        facts.append(replace(fact, fields=said))
    return facts


def changed_table(factors: Sequence[EmissionFactor], known: Known, now: datetime) -> list[Fact]:
    """Return the fact that the shipped library as a whole is another one than was committed last, or nothing.

    A row that has left the library shows here: it has no fact of its own.
    """
    fields: dict[str, Any] = {"rows": len(factors), "sha256": factor_table_hash(factors)}
    last = max((fact for fact in known.values() if fact.subject == FACTOR_TABLE), key=_version, default=None)
    if last is not None and {name: last.fields.get(name) for name in fields} == fields:
        return []
    said = {**fields, "received_at": _time(now)}
    if last is None:
        return [Fact(Kind.FACTOR_TABLE, FACTOR_TABLE, NAMELESS, 1, said)]
    said |= {"author": "service:carbon", "reason": "library changed"}
    return [Fact(Kind.FACTOR_TABLE, FACTOR_TABLE, NAMELESS, last.version + 1, said)]


def factor_fact(factor: EmissionFactor) -> Fact:
    """Return the fact of a revision of a row of the library."""
    fields = factor_fields(factor)
    if factor.entered_by is not None and factor.revision > 1:
        fields |= {"author": factor.entered_by, "reason": "withdrawn" if factor.withdrawn else "a later revision"}
    return Fact(Kind.FACTOR, f"{FACTOR}{factor.factor_id}", NAMELESS, factor.revision, fields)


def factor_fields(factor: EmissionFactor) -> dict[str, Any]:
    """Return a row of the library as it is hashed."""
    return {
        "factor_id": factor.factor_id,
        "revision": factor.revision,
        "series": factor.series,
        "family": factor.family.value,
        "category": factor.category,
        "region": factor.region,
        "data_year": factor.data_year,
        "value": format(factor.value, "f"),
        "unit": factor.unit,
        "gas": factor.gas,
        "source": factor.source,
        "source_year": factor.source_year,
        "known_from": factor.known_from.isoformat(),
        "confidence": factor.confidence,
        "name_en": factor.name_en,
        "name_zh": factor.name_zh,
        "withdrawn": factor.withdrawn,
        "evidence": factor.evidence,
        "supplier": factor.supplier,
        "entered_by": factor.entered_by,
        "entered_at": None if factor.entered_at is None else _time(factor.entered_at),
    }


def factor_table_hash(factors: Iterable[EmissionFactor]) -> str:
    """Return the hash of the whole library, in hexadecimal; the order of its rows does not matter."""
    rows = sorted((factor_fields(one) for one in factors), key=lambda row: (str(row["factor_id"]), row["revision"]))
    return digest_of({"rows": rows}, GENESIS)


def report_subject(statement: Stated) -> str:
    """Return the subject of a published statement's versions."""
    return f"{REPORT}{statement.kind.value}/{statement.statement_id}"


def report_fact(statement: Stated, *, file_sha256: str, inputs: Fields) -> Fact:
    """Return the fact that a version of a statement was published.

    Its text holds its question, the factors that it used and the software that made it; the hash covers them.

    Args:
        statement: What was published.
        file_sha256: Of its text as it stands in the books, in hexadecimal.
        inputs: What stood in the log when it was published: ``inputs``, a list of ``tree``, ``size`` and ``root``.
    """
    fields: dict[str, Any] = {
        **inputs,
        "name": statement.name,
        "file_sha256": file_sha256,
        "factor_table": statement.table_digest,
        "known_on": statement.known_on.isoformat(),
        "published_at": _time(statement.published_at),
        "author": statement.published_by,
    }
    if statement.version > 1:
        fields["reason"] = "a later version was published"
    return Fact(Kind.REPORT, report_subject(statement), NAMELESS, statement.version, fields)


def head_fact(closed: TreeHead) -> Fact:
    """Return the fact that a tree was closed; it is the first leaf of the next one."""
    return Fact(Kind.HEAD, HEADS, closed.at, 1, {"closed": closed.as_json()})


def decimal_text(value: float) -> str:
    """Return a number as a decimal text without exponent: the shortest that reads back as the same number."""
    return format(Decimal(repr(value)), "f")


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _version(fact: Fact) -> int:
    return fact.version
