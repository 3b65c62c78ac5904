"""Canonical rows, and what two parties compare of them: counts, exact sums and a hash that knows no order.

A *row* is one value of one point of one device at one time. Its canonical line is the same for everybody who has it,
whatever the format in which it was sent:

    site_id <TAB> device_id <TAB> point <TAB> source_time <TAB> value <TAB> quality

``source_time`` is UTC with six decimals and ``Z``; ``value`` is a decimal without exponent and without zeros that say
nothing, empty where there is none; ``quality`` is empty for good. A *tally* of rows has their number, per point the
number and the exact decimal sum of the values, and the sum modulo 2**256 of the lines' SHA-256: a hash of the multiset,
which can be added up in any order and in parts, and finds what is missing, doubled or changed. It is meant against
mistakes and losses; against somebody who makes rows to fit it, the numbered batches are compared.

Source:
    Bellare, Micciancio: A New Paradigm for Collision-free Hashing (1997), 4: AdHASH.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, localcontext
from zoneinfo import ZoneInfo

COLUMNS = ("site_id", "device_id", "point", "source_time", "value", "quality")
"""Of a canonical line, in this order."""
DAY_ZONE = ZoneInfo("Asia/Shanghai")
"""Whose civil days are compared: of ``source_time``, so that both parties can tell the day of a row from the row."""
MODULUS = 1 << 256
_EXACT = Context(prec=800, traps=[Inexact])
"""Room for sums of any two doubles (about 1e308 and 1e-324); beyond it we would rather fail than round."""


def decimal_text(value: float | None) -> str:
    """Return the shortest decimal that reads back as the number, without exponent; empty for none."""
    if value is None:
        return ""
    text = repr(value)
    if "e" in text or "n" in text:  # an exponent; what is no number is nobody's to decide here
        return _plain(Decimal(text))
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def _plain(number: Decimal) -> str:
    """Return a decimal without exponent and without zeros that say nothing."""
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


@dataclass(frozen=True, slots=True)
class PointSum:
    """What is compared of one point."""

    rows: int = 0
    values: int = 0
    """Rows that have a value."""
    total: Decimal = Decimal(0)

    def plus(self, other: "PointSum") -> "PointSum":
        """Return both together."""
        return PointSum(self.rows + other.rows, self.values + other.values, _EXACT.add(self.total, other.total))


@dataclass(slots=True)
class Tally:
    """What is compared of a multiset of rows."""

    rows: int = 0
    digest: int = 0
    """Sum of the lines' SHA-256 modulo 2**256."""
    points: dict[str, PointSum] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The digest as people and documents show it: 64 hexadecimal digits."""
        return f"{self.digest:064x}"

    def add(self, other: "Tally") -> None:
        """Count the rows of another one too."""
        self.rows += other.rows
        self.digest = (self.digest + other.digest) % MODULUS
        for point, theirs in other.points.items():
            ours = self.points.get(point)
            self.points[point] = theirs if ours is None else ours.plus(theirs)

    def document(self) -> dict[str, object]:
        """Return it as JSON has it: sums are texts, so that no reader rounds them."""
        return {
            "rows": self.rows,
            "hash": self.hash,
            "points": {
                point: {"rows": each.rows, "values": each.values, "sum": _plain(each.total)}
                for point, each in sorted(self.points.items())
            },
        }

    @classmethod
    def of_document(cls, document: Mapping[str, object]) -> "Tally":
        """Return the tally of a document.

        Raises:
            ValueError: It is none.
        """
        rows, digest, points = document.get("rows"), document.get("hash"), document.get("points")
        if not isinstance(rows, int) or not isinstance(digest, str) or not isinstance(points, Mapping):
            raise ValueError("expected rows, hash and points")
        if len(digest) != 64:
            raise ValueError(f"hash: expected 64 hexadecimal digits, found {len(digest)} characters")
        return cls(
            rows,
            int(digest, 16),
            {
                str(point): PointSum(int(each["rows"]), int(each["values"]), Decimal(each["sum"]))
                for point, each in points.items()
            },
        )


def tally_of(lines: Iterable[str]) -> Tally:
    """Return the tally of canonical lines."""
    by_point: defaultdict[str, list[str]] = defaultdict(list)
    digests: list[bytes] = []
    sha256, digested = hashlib.sha256, digests.append
    for line in lines:
        digested(sha256(line.encode()).digest())
        _, _, point, _, value, _ = line.split("\t")
        by_point[point].append(value)
    points: dict[str, PointSum] = {}
    with localcontext(_EXACT):
        for point, found in by_point.items():
            values = [value for value in found if value]
            points[point] = PointSum(len(found), len(values), sum(map(Decimal, values), Decimal(0)))
    return Tally(len(digests), sum(map(int.from_bytes, digests)) % MODULUS, points)


def day_of(line: str) -> date:
    """Return the civil day that a canonical line is counted to."""
    return datetime.fromisoformat(line.split("\t", 4)[3]).astimezone(DAY_ZONE).date()


def tallies_by_day(lines: Sequence[str]) -> dict[date, Tally]:
    """Return the tally of each civil day that lines are of."""
    by_day: dict[date, list[str]] = {}
    # Most lines of a batch are of one hour, so the text up to the hour is worth remembering.
    known: dict[str, date] = {}
    for line in lines:
        hour = line.split("\t", 4)[3][:13]
        day = known.get(hour)
        if day is None:
            day = known[hour] = day_of(line)
        by_day.setdefault(day, []).append(line)
    return {day: tally_of(found) for day, found in by_day.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two tallies differ."""

    what: str
    """``rows``, ``hash``, or ``points/<point>`` with ``/rows``, ``/values`` or ``/sum``."""
    ours: str
    theirs: str


def differences(ours: Tally, theirs: Tally) -> Iterator[Difference]:
    """Name what differs: the counts first, then the sums, then the hash, which says only that something does."""
    if ours.rows != theirs.rows:
        yield Difference("rows", str(ours.rows), str(theirs.rows))
    for point in sorted(ours.points.keys() | theirs.points.keys()):
        one, other = ours.points.get(point, PointSum()), theirs.points.get(point, PointSum())
        if one.rows != other.rows:
            yield Difference(f"points/{point}/rows", str(one.rows), str(other.rows))
        if one.values != other.values:
            yield Difference(f"points/{point}/values", str(one.values), str(other.values))
        if one.total != other.total:
            yield Difference(f"points/{point}/sum", _plain(one.total), _plain(other.total))
    if ours.digest != theirs.digest:
        yield Difference("hash", ours.hash, theirs.hash)
