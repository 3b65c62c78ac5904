"""The log as a whole, on books in memory: whatever happens in whatever order, outsiders can check all of it."""

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common import auditchain
from libs.common.db import ReadConn, WriteConn
from libs.common.ids import CircuitId, SiteId
from libs.common.merkle import TileKey
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing, MissingKey
from libs.common.verifier import Verifier
from services.carbon.domain import attestation
from services.carbon.domain.attestation import Fact, Kind, Leaf, Link, TreeHead, interval_fact, report_fact
from services.carbon.domain.booking import BookedInterval
from services.carbon.domain.factors import EmissionFactor, Family
from services.carbon.domain.intervals import Grade
from services.carbon.domain.media import MEDIA
from services.carbon.domain.statements import Stated, StatementKind
from services.carbon.store.attestation import Kept, LogRow
from services.carbon.usecases.attesting import Attesting, LogDamaged, NotAttested, Proofs

START = datetime(2026, 3, 1, 4, tzinfo=UTC)
DAY = date(2026, 3, 1)
KEY = Ed25519PrivateKey.generate()


class Crash(Exception):
    pass


@dataclass
class Row:
    fact: Fact
    seq: int
    salt: bytes
    previous: str
    corrects: str | None


@dataclass
class Tables:
    pending: list[Fact] = field(default_factory=list)
    leaves: dict[tuple[date, int], Row] = field(default_factory=dict)
    ends: dict[str, Link] = field(default_factory=dict)
    tiles: dict[tuple[date, TileKey], bytes] = field(default_factory=dict)
    heads: list[TreeHead] = field(default_factory=list)
    told: list[TreeHead] = field(default_factory=list)
    log: LogRow = field(default_factory=lambda: LogRow(None, 0))


class Books:
    """The log, its transactions and what is published in them; may be told to crash at the n-th step."""

    def __init__(self) -> None:
        self.now = Tables()
        self.steps_left: int | None = None

    @asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConn]:
        before = copy.deepcopy(self.now)
        try:
            yield cast(WriteConn, None)
            self._step()
        except BaseException:
            self.now = before
            raise

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConn]:
        yield cast(ReadConn, None)

    def _step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.steps_left = None
                raise Crash

    async def add_facts(self, conn: WriteConn, facts: Sequence[Fact]) -> None:
        self._step()
        self.now.pending += facts

    async def lock_log(self, conn: WriteConn) -> LogRow:
        self._step()
        return self.now.log

    async def set_log(self, conn: WriteConn, log: LogRow) -> None:
        self._step()
        self.now.log = log

    async def take_facts(self, conn: WriteConn, limit: int) -> list[Fact]:
        self._step()
        taken, self.now.pending = self.now.pending[:limit], self.now.pending[limit:]
        return taken

    async def fetch_ends(self, conn: WriteConn, subjects: Collection[str]) -> dict[str, Link]:
        self._step()
        return {one: self.now.ends[one] for one in subjects if one in self.now.ends}

    async def set_ends(self, conn: WriteConn, ends: Mapping[str, Link]) -> None:
        self._step()
        self.now.ends |= ends

    async def fetch_places(
        self, conn: WriteConn, names: Sequence[tuple[str, datetime, int]]
    ) -> dict[tuple[str, datetime, int], str]:
        self._step()
        return {
            name: f"{tree}/{index}"
            for (tree, index), row in sorted(self.now.leaves.items())
            for name in [(row.fact.subject, row.fact.at, row.fact.version)]
            if name in names
        }

    async def append_leaves(self, conn: WriteConn, tree: date, first: int, leaves: Sequence[Leaf]) -> None:
        self._step()
        for index, leaf in enumerate(leaves, first):
            assert (tree, index) not in self.now.leaves
            entry = leaf.entry
            row = Row(leaf.fact, leaf.seq, leaf.salt, entry["previous"], entry.get("corrects"))
            self.now.leaves[tree, index] = row

    async def fetch_tiles(
        self, conn: ReadConn | WriteConn, tree: date, keys: Iterable[TileKey]
    ) -> dict[TileKey, bytes]:
        return {key: self.now.tiles[tree, key] for key in keys if (tree, key) in self.now.tiles}

    async def put_tiles(self, conn: WriteConn, tree: date, tiles: Mapping[TileKey, bytes]) -> None:
        self._step()
        for key, hashes in tiles.items():
            assert hashes.startswith(self.now.tiles.get((tree, key), b""))
            self.now.tiles[tree, key] = hashes

    async def add_head(self, conn: WriteConn, head: TreeHead) -> None:
        self._step()
        assert not any((one.tree, one.size, one.final) == (head.tree, head.size, head.final) for one in self.now.heads)
        self.now.heads.append(head)

    async def fetch_last_head(self, conn: ReadConn | WriteConn, tree: date | None = None) -> TreeHead | None:
        found = [one for one in self.now.heads if tree is None or one.tree == tree]
        return max(found, key=lambda one: (one.tree, one.size, one.final), default=None)

    async def fetch_head(self, conn: ReadConn, tree: date, size: int) -> TreeHead | None:
        found = [one for one in self.now.heads if (one.tree, one.size) == (tree, size)]
        return max(found, key=lambda one: one.final, default=None)

    async def fetch_heads(self, conn: ReadConn, start: date, end: date, limit: int) -> list[TreeHead]:
        found = [one for one in self.now.heads if start <= one.tree <= end]
        return sorted(found, key=lambda one: (one.tree, one.size, one.final))[:limit]

    async def fetch_closing_heads(self, conn: ReadConn, start: date, end: date) -> list[TreeHead]:
        found = [one for one in self.now.heads if start <= one.tree < end and one.final]
        return sorted(found, key=lambda one: one.tree)

    async def fetch_leaf(self, conn: ReadConn, subject: str, at: datetime | None, version: int | None) -> Kept | None:
        found = [
            (place, row)
            for place, row in self.now.leaves.items()
            if row.fact.subject == subject and at in (None, row.fact.at) and version in (None, row.fact.version)
        ]
        return None if not found else kept(*max(found, key=lambda one: one[1].seq))

    async def fetch_leaf_at(self, conn: ReadConn, tree: date, index: int) -> Kept | None:
        row = self.now.leaves.get((tree, index))
        return None if row is None else kept((tree, index), row)

    async def fetch_chain(self, conn: ReadConn, subject: str, after: int, limit: int) -> list[Kept]:
        found = [(place, row) for place, row in self.now.leaves.items() if row.fact.subject == subject]
        found = sorted((one for one in found if one[1].seq > after), key=lambda one: one[1].seq)
        return [kept(*one) for one in found[:limit]]

    async def fetch_known(self, conn: WriteConn, kind: Kind) -> dict[tuple[str, int], Fact]:
        facts = [*(row.fact for _, row in sorted(self.now.leaves.items())), *self.now.pending]
        return {(fact.subject, fact.version): fact for fact in facts if fact.kind is kind}

    async def head(self, conn: WriteConn, head: TreeHead) -> None:
        self._step()
        self.now.told.append(head)


def kept(place: tuple[date, int], row: Row) -> Kept:
    """Made again from what is kept, as the real one is."""
    end = Link(row.seq - 1, row.previous)
    return Kept(*place, Leaf.of(row.fact, end=end, salt=row.salt, corrects=row.corrects))


def interval(circuit: str, quarter: int = 0, version: int = 1, energy_kwh: float | None = 1.5) -> Fact:
    grade = Grade.MISSING if energy_kwh is None else Grade.MEASURED
    start = START + timedelta(minutes=15 * quarter)
    return interval_fact(
        BookedInterval(
            CircuitId(circuit), SiteId("site-1"), start, 900, version, energy_kwh, grade, False, False, start
        )
    )


def test_a_quantity_of_another_medium_says_which_and_has_a_chain_of_its_own() -> None:
    water = BookedInterval(CircuitId("c/1"), SiteId("site-1"), START, 900, 2, 0.25, Grade.MEASURED, False, False, START)
    fact = interval_fact(water, MEDIA["water_volume"])
    assert (fact.kind, fact.subject) == (Kind.INTERVAL, "medium:water_volume/c/1")
    said = {"value": "0.25", "unit": "m3", "medium": "water", "point": "water_volume", "circuit": "c/1"}
    assert said.items() <= dict(fact.fields).items()
    assert interval_fact(water).subject == "circuit:c/1"


class House:
    """The log and its clock."""

    def __init__(self) -> None:
        self.clock = FakeClock(START)
        self.books = Books()
        keys = KeyRing({"carbon": KEY}, {"carbon": KEY.public_key()}, self.clock)
        self.attesting = Attesting(
            db=self.books, log=self.books, publisher=self.books, clock=self.clock, keys=keys, head_every_s=3600
        )
        self.proofs = Proofs(db=self.books, log=self.books)

    async def commit(self, *facts: Fact, after: timedelta = timedelta()) -> None:
        self.clock.set_wall(self.clock.now() + after)
        self.books.now.pending += facts
        while await self.attesting.turn():
            pass


def judged(*documents: Any, witness: Any = None, files: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the exit code and the words of the verifier for what has gone through JSON."""
    verifier = Verifier([KEY.public_key()], files)
    if witness is not None:
        verifier.witness(json.loads(json.dumps(witness)))
    for document in documents:
        verifier.take(json.loads(json.dumps(document)))
    judgement = verifier.conclude()
    assert all(one.english and one.chinese for one in judgement.said)
    return judgement.exit_code, "\n".join(f"{one.mark}: {one.english}" for one in judgement.said)


FACTS = st.lists(
    st.builds(
        interval,
        st.sampled_from(["c-1", "c-2", "线路-3"]),
        st.integers(0, 3),
        st.integers(1, 3),
        st.none() | st.floats(0, 1e6),
    ),
    max_size=6,
)
SECONDS = st.sampled_from([0, 60, 3600, 30_000, 90_000])
STEPS = st.lists(st.tuples(FACTS, SECONDS, st.none() | st.integers(0, 14)), max_size=7)


@settings(max_examples=60)
@given(STEPS)
def test_whatever_happens_every_leaf_and_every_pair_of_heads_can_be_proved(steps: Any) -> None:
    asyncio.run(live(steps))


async def live(steps: list[tuple[list[Fact], int, int | None]]) -> None:
    house = House()
    asked: list[Fact] = []
    for facts, seconds, crash in steps:
        asked += facts
        house.books.now.pending += facts
        house.clock.set_wall(house.clock.now() + timedelta(seconds=seconds))
        house.books.steps_left = crash
        try:
            await house.attesting.turn()
        except Crash:
            await house.attesting.turn()
        house.books.steps_left = None
    await house.commit(after=timedelta(hours=2))
    now = house.books.now
    committed = [row.fact for _, row in sorted(now.leaves.items()) if row.fact.kind is Kind.INTERVAL]
    assert committed == asked, "each once, in their order"
    assert now.told == now.heads
    newest = await house.proofs.latest() if now.heads else None
    for tree, index in now.leaves:
        assert newest is not None
        document = await house.proofs.inclusion_at(tree, index)
        to_newest = await house.proofs.consistency((tree, document["head"]["size"]), None)
        code, words = judged(document, to_newest, witness=newest)
        assert code == 0, words
        assert "was committed before you were given head" in words
    for one in now.heads:
        for other in now.heads:
            if (one.tree, one.size) <= (other.tree, other.size):
                document = await house.proofs.consistency((one.tree, one.size), (other.tree, other.size))
                assert judged(document)[0] == 0
    for subject in now.ends:
        document = await house.proofs.chain(subject, 0, 1000)
        assert judged(document)[0] == 0
        entries = [json.loads(text) for text in document["entries"]]
        lines = [{**entry, "hash": auditchain.digest_of(entry, entry["previous"])} for entry in entries]
        assert auditchain.verify(lines).hash == now.ends[subject].commitment


async def test_a_day_is_closed_and_begins_with_the_closing_head_of_the_one_before() -> None:
    house = House()
    await house.commit(interval("c-1"))
    await house.commit(interval("c-1", 1), after=timedelta(minutes=1))
    await house.commit(after=timedelta(hours=12))  # past midnight in China
    heads = house.books.now.heads
    assert [(one.tree, one.size, one.final) for one in heads] == [
        (DAY, 1, False), (DAY, 2, True), (DAY + timedelta(days=1), 1, False),
    ]  # fmt: skip
    first = house.books.now.leaves[DAY + timedelta(days=1), 0]
    assert first.fact.fields["closed"] == heads[1].as_json()
    document = await house.proofs.consistency((DAY, 1), None)
    code, words = judged(document)
    assert code == 0
    assert "through the closing heads of 1 tree(s)" in words


async def test_a_clock_that_is_set_back_opens_no_closed_day() -> None:
    house = House()
    await house.commit(interval("c-1"), after=timedelta(days=1))
    house.clock.set_wall(START)
    await house.commit(interval("c-1", 1))
    assert {tree for tree, _ in house.books.now.leaves} == {DAY + timedelta(days=1)}


async def test_a_correction_names_the_leaf_that_it_replaces_and_both_stay() -> None:
    house = House()
    await house.commit(interval("c-1"), interval("c-2"))
    await house.commit(interval("c-1", version=2, energy_kwh=2.25), after=timedelta(days=3))
    document = await house.proofs.inclusion("circuit:c-1", START, None)
    said = json.loads(document["leaf"])
    assert (said["corrects"], said["value"], said["version"]) == (f"{DAY}/0", "2.25", 2)
    assert (document["head"]["tree"], document["index"]) == ("2026-03-04", 1)
    code, words = judged(document)
    assert code == 0
    assert f"it corrects leaf {DAY}/0, which stays; reason given: recomputed from registers" in words
    earlier = await house.proofs.inclusion("circuit:c-1", START, 1)
    assert json.loads(earlier["leaf"])["value"] == "1.5"


async def test_what_is_changed_in_the_books_no_longer_verifies() -> None:
    house = House()
    await house.commit(interval("c-1"), interval("c-2"))
    row = house.books.now.leaves[DAY, 0]
    house.books.now.leaves[DAY, 0] = replace(row, fact=interval("c-1", energy_kwh=1.4))
    code, words = judged(await house.proofs.inclusion("circuit:c-1", START, None))
    assert code == 1
    assert "the leaf of circuit:c-1 is not leaf 0" in words


async def test_a_log_that_lost_what_was_signed_is_not_signed_again() -> None:
    house = House()
    await house.commit(interval("c-1"), interval("c-2"))
    ((place, hashes),) = house.books.now.tiles.items()
    house.books.now.tiles[place] = bytes(32) + hashes[32:]
    with pytest.raises(LogDamaged, match="what was signed is no longer what is kept"):
        await house.commit(interval("c-1", 1), after=timedelta(hours=1))
    assert len(house.books.now.heads) == 1
    assert house.books.now.pending, "what waits goes on waiting"


async def test_a_log_that_was_made_anew_shows_against_a_head_that_somebody_kept() -> None:
    honest, forged = House(), House()
    await honest.commit(interval("c-1"), interval("c-2"))
    await forged.commit(interval("c-1", energy_kwh=0.5), interval("c-2"))
    kept_head = await honest.proofs.latest()
    code, words = judged(await forged.proofs.inclusion("circuit:c-1", START, None), witness=kept_head)
    assert code == 1
    assert "TWO HISTORIES" in words
    await forged.commit(interval("c-1", 1), after=timedelta(hours=1))
    # The operator's best answer: the old head as it was kept, a new one of the forged log, and its own proof.
    document = await forged.proofs.consistency((DAY, 2), (DAY, 3))
    document["old"] = kept_head["head"]
    code, words = judged(document, witness=kept_head)
    assert code == 1
    assert "does not contain what head 2026-03-01/2 covered" in words


async def test_without_a_kept_head_it_is_said_that_the_operator_could_have_made_it_anew() -> None:
    house = House()
    await house.commit(interval("c-1"))
    document = await house.proofs.inclusion("circuit:c-1", START, None)
    code, words = judged(document)
    assert code == 0
    assert "No head that somebody outside has kept was given" in words
    assert "It does not say that the meter was right" in words
    await house.commit(interval("c-1", 1), after=timedelta(hours=1))
    later = await house.proofs.latest()
    assert "No head that you kept covers leaf 0" in judged(document, witness=later)[1]


async def test_what_no_head_covers_yet_is_said_so_and_what_was_never_committed_too() -> None:
    house = House()
    with pytest.raises(NotAttested, match="no head has been signed yet"):
        await house.proofs.latest()
    await house.commit(interval("c-1"))
    await house.commit(interval("c-1", 1))
    with pytest.raises(NotAttested, match="the next head will cover it"):
        await house.proofs.inclusion("circuit:c-1", START + timedelta(minutes=15), None)
    with pytest.raises(NotAttested, match="nothing was committed"):
        await house.proofs.inclusion("circuit:c-9", START, None)
    with pytest.raises(NotAttested, match="circuit:c-9 has no leaves"):
        await house.proofs.chain("circuit:c-9", 0, 10)
    with pytest.raises(NotAttested, match="no head 2026-03-01/7"):
        await house.proofs.consistency((DAY, 7), None)
    await house.commit(after=timedelta(hours=1))
    with pytest.raises(NotAttested, match="earlier than the first"):
        await house.proofs.consistency((DAY, 2), (DAY, 1))


def factor(factor_id: str, value: str = "0.5703", **more: Any) -> EmissionFactor:
    return EmissionFactor(
        **{
            "factor_id": factor_id, "series": "grid", "family": Family.AVERAGE, "category": "electricity",
            "region": "CN", "data_year": 2022, "value": Decimal(value), "unit": "kgCO2/kWh", "gas": "CO2",
            "source": "MEE", "source_year": 2023, "known_from": date(2023, 12, 31), "confidence": "verified",
            "name_en": "Grid", "name_zh": "电网", **more,
        }
    )  # fmt: skip


async def test_factors_are_committed_when_they_are_new_or_changed_and_the_table_with_them() -> None:
    house = House()
    assert await house.attesting.note_factors([factor("F-1"), factor("F-2")]) == 2
    assert await house.attesting.note_factors([factor("F-2"), factor("F-1")]) == 0
    await house.commit()
    shipped = [factor("F-1"), factor("F-2", "0.5710"), factor("F-1", "0.58", revision=2)]
    assert await house.attesting.note_factors(shipped) == 2
    assert await house.attesting.note_factors(shipped) == 0
    await house.commit(after=timedelta(hours=1))
    changed = await house.proofs.inclusion("factor:F-2", None, None)
    said = json.loads(changed["leaf"])
    assert (said["value"], said["version"], said["corrects"], said["reason"]) == (
        "0.5710", 1, f"{DAY}/1", "library changed",
    )  # fmt: skip
    revised = await house.proofs.inclusion("factor:F-1", None, 2)
    said = json.loads(revised["leaf"])
    assert (said["value"], said["version"], said["corrects"]) == ("0.58", 2, f"{DAY}/0")
    assert judged(changed, revised)[0] == 0
    assert house.books.now.ends[attestation.FACTOR_TABLE].seq == 2


def stated(version: int = 1) -> Stated:
    return Stated(
        kind=StatementKind.INVENTORY, statement_id="org/2026", version=version, name="March", digest="ab" * 32,
        table_digest="00" * 32, known_on=DAY, published_at=START, published_by="user:li",
    )  # fmt: skip


async def test_a_report_is_bound_to_its_text_its_factors_and_where_the_log_stood() -> None:
    house = House()
    await house.commit(interval("c-1"))
    inputs = {"inputs": [{"tree": str(DAY), "size": 1, "root": house.books.now.heads[0].root.hex()}]}
    await house.commit(report_fact(stated(), file_sha256="ab" * 32, inputs=inputs), after=timedelta(hours=1))
    document = await house.proofs.inclusion("report:inventory/org/2026", None, None)
    said = json.loads(document["leaf"])
    assert {name: said[name] for name in inputs} == inputs
    assert (said["factor_table"], said["known_on"], said["author"]) == ("00" * 32, "2026-03-01", "user:li")
    code, words = judged(document, files={"march.json": "ab" * 32})
    assert code == 0
    assert "march.json is, byte for byte, the report that was committed" in words
    assert judged(document, files={"march.json": "ac" * 32})[0] == 1
    await house.commit(report_fact(stated(2), file_sha256="cd" * 32, inputs=inputs), after=timedelta(hours=1))
    said = json.loads((await house.proofs.inclusion("report:inventory/org/2026", None, None))["leaf"])
    assert (said["corrects"], said["reason"]) == (f"{DAY}/1", "a later version was published")


@given(st.floats(0, allow_infinity=False, allow_nan=False))
def test_a_decimal_text_reads_back_as_the_same_number_and_has_no_exponent(value: float) -> None:
    text = attestation.decimal_text(value)
    assert float(text) == value
    assert set(text) <= set("0123456789.")


def test_equal_readings_have_unequal_commitments() -> None:
    facts = [interval("c-1"), interval("c-2")]
    one = attestation.commit(facts, {}, bytes(range(32)), {})
    other = attestation.commit(facts, {}, bytes(range(1, 33)), {})
    assert one[0].commitment != other[0].commitment
    assert one[0].entry["salt"] == bytes(range(16)).hex()
    with pytest.raises(ValueError, match="need 32 random bytes"):
        attestation.commit(facts, {}, bytes(16), {})


async def test_under_a_new_key_the_log_goes_on_and_its_heads_name_which_one_they_hold_under(
    caplog: pytest.LogCaptureFixture,
) -> None:
    house = House()
    await house.commit(interval("c-1"))
    new = Ed25519PrivateKey.generate()
    keys = KeyRing({"carbon": new}, {"carbon": new.public_key()}, house.clock)
    house.attesting = Attesting(
        db=house.books, log=house.books, publisher=house.books, clock=house.clock, keys=keys, head_every_s=3600
    )
    await house.commit(interval("c-1", 1), after=timedelta(hours=1))
    assert [one.message for one in caplog.records] == ["heads are signed under another key from now on"]
    document = await house.proofs.consistency((DAY, 1), None)
    assert document["old"]["key"] != document["new"]["key"]
    for shown, code in (([KEY, new], 0), ([KEY], 1), ([new], 1)):
        verifier = Verifier([one.public_key() for one in shown])
        verifier.take(document)
        assert verifier.conclude().exit_code == code


async def test_without_its_key_nothing_is_committed_and_what_waits_goes_on_waiting() -> None:
    house = House()
    keys = KeyRing({}, {"carbon": KEY.public_key()}, house.clock)
    house.attesting = Attesting(
        db=house.books, log=house.books, publisher=house.books, clock=house.clock, keys=keys, head_every_s=3600
    )
    with pytest.raises(MissingKey):
        await house.commit(interval("c-1"))
    assert house.books.now.leaves == {}
    assert len(house.books.now.pending) == 1
