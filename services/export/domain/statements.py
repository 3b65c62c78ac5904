"""The daily statement of a feed: what it has of a civil day, and what each destination has acknowledged of it.

The same document for everybody who is told the feed, so that two parties compare with each other by comparing with it:
who has acknowledged every batch of the day has the rows, sums and hash of the whole. A statement is *through* a batch,
since rows may come late: one through a later batch may have more rows of the day, never fewer.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from services.export.domain.feeds import ranges
from services.export.domain.rows import COLUMNS, DAY_ZONE, Difference, Tally, differences

RECIPE = (
    "for each row the line " + " TAB ".join(COLUMNS) + " in UTF-8, without an end of line; hash: the sum of the lines'"
    " SHA-256 as big-endian integers modulo 2**256, in 64 hexadecimal digits; sum: exact, over rows with a value"
)


@dataclass(frozen=True, slots=True)
class Side:
    """What one destination has acknowledged of a day."""

    destination_id: str
    name: str
    first_number: int
    """Earlier batches were not meant for it."""
    tally: Tally
    told: tuple[int, ...]
    missing: tuple[int, ...]
    """Batches with rows of the day, meant for it, that it has not acknowledged."""

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "destination": self.destination_id,
            "name": self.name,
            "from_batch": self.first_number,
            **self.tally.document(),
            "told": [list(pair) for pair in ranges(self.told)],
            "missing": [list(pair) for pair in ranges(self.missing)],
            "complete": not self.missing,
        }


@dataclass(frozen=True, slots=True)
class Statement:
    """What a feed has of a day."""

    feed_id: str
    day: date
    through: int
    """Number of the last batch that was looked at."""
    batches: Mapping[int, Tally]
    """What each batch has of the day; batches without such rows are not in it."""
    sides: tuple[Side, ...]

    @property
    def whole(self) -> Tally:
        """What all batches have of the day together."""
        return added(self.batches.values())

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "feed": self.feed_id,
            "day": self.day.isoformat(),
            "zone": str(DAY_ZONE),
            "through_batch": self.through,
            "recipe": RECIPE,
            **self.whole.document(),
            "batches": [
                {"batch": number, "rows": tally.rows, "hash": tally.hash}
                for number, tally in sorted(self.batches.items())
            ],
            "destinations": [side.document() for side in self.sides],
        }


def added(tallies: Collection[Tally]) -> Tally:
    """Return tallies added up."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def side_of(
    destination_id: str, name: str, first_number: int, batches: Mapping[int, Tally], delivered: Collection[int]
) -> Side:
    """Return what one destination has acknowledged of a day.

    Args:
        destination_id: Whose.
        name: Its name.
        first_number: The batch that it began with.
        batches: What each batch has of the day.
        delivered: Which of them it has acknowledged; earlier than its first only when it was asked for.
    """
    told = tuple(sorted(number for number in batches if number in delivered))
    missing = tuple(sorted(number for number in batches if number >= first_number and number not in delivered))
    return Side(destination_id, name, first_number, added([batches[number] for number in told]), told, missing)


@dataclass(frozen=True, slots=True)
class Found:
    """What a check by a party has shown."""

    agrees: bool
    differences: tuple[Difference, ...]
    wrong: tuple[int, ...]
    """Batches that the party has otherwise, or not at all."""
    unknown: tuple[int, ...]
    """Batches that the party has and this feed has not, of that day."""


def check(
    side: Side,
    batches: Mapping[int, Tally],
    theirs: Tally,
    *,
    with_points: bool,
    their_hashes: Mapping[int, str] | None,
) -> Found:
    """Compare what a party has of a day with what it has acknowledged.

    Args:
        side: The party's destination.
        batches: What each batch has of the day.
        theirs: What the party has.
        with_points: Whether it says so by point too; otherwise only number of rows and hash are compared.
        their_hashes: What it has by batch, where it can tell; this names the batches that differ.
    """
    ours = side.tally if with_points else Tally(side.tally.rows, side.tally.digest)
    found = tuple(differences(ours, theirs))
    wrong: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    if their_hashes is not None:
        wrong = tuple(_wrong(side.told, batches, their_hashes))
        unknown = tuple(sorted(their_hashes.keys() - batches.keys()))
    return Found(not found and not wrong and not unknown, found, wrong, unknown)


def _wrong(told: Sequence[int], batches: Mapping[int, Tally], theirs: Mapping[int, str]) -> Iterator[int]:
    for number in told:
        if theirs.get(number, "").lower() != batches[number].hash:
            yield number
