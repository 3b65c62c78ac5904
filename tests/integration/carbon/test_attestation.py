"""The attestation log on a real database: what it refuses, and that whatever is changed in the books is found."""

import hashlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from libs.common.bus import topics
from libs.common.db import Database
from libs.common.settings import DatabaseSettings
from services.carbon.domain.factors import EmissionFactor, Family
from services.carbon.domain.statements import Stated, StatementKind
from services.carbon.library import load_shipped
from services.carbon.store import inventories
from services.carbon.store.media import MediumBooks
from services.carbon.usecases.attestchecks import CIRCUITS_AT_ONCE
from services.carbon.usecases.attesting import LogDamaged, NotAttested
from tests.integration.carbon.attest_world import DAY, START, House, by_hand, flipped, interval, verdict

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


@pytest.fixture
async def house(postgres_url: str) -> AsyncIterator[House]:
    db = Database(DatabaseSettings(url=SecretStr(postgres_url)), schema="carbon", role="wattring_carbon")
    await db.open()
    try:
        yield House(db)
    finally:
        await db.close()


async def test_what_is_booked_can_be_proved_over_days_and_corrections(house: House) -> None:
    await house.commit(*(interval(quarter, 0.1 * quarter) for quarter in range(300)))
    kept = await house.proofs.latest()
    await house.commit(interval(7, None, version=2), interval(0, 1e-7, circuit="c-2"), after=timedelta(days=1))
    until_now = await house.proofs.consistency((DAY, 300), None)
    for circuit, quarter, version in (("c-1", 0, 1), ("c-1", 299, 1), ("c-1", 7, 1), ("c-1", 7, 2), ("c-2", 0, 1)):
        at = START + timedelta(minutes=15 * quarter)
        document = await house.proofs.inclusion(f"circuit:{circuit}", at, version)
        code, words = verdict(document, until_now, witness=kept)
        assert code == 0, words
        known_to_the_witness = document["head"]["tree"] == str(DAY)
        assert ("was committed before you were given head" in words) is known_to_the_witness
    chain = await house.proofs.chain("circuit:c-1", 0, 1000)
    assert len(chain["entries"]) == 301
    assert verdict(chain)[0] == 0
    assert await house.faults() == await house.faults(DAY + timedelta(days=1)) == []
    async with house.db.read() as conn:
        assert await conn.fetchval("select count(*) from attest_pending") == 0
        told = await conn.fetchval("select count(*) from outbox where topic = $1", topics.ATTESTATIONS)
        assert told == await conn.fetchval("select count(*) from attest_heads") == 3


CHANGED: list[tuple[str, list[tuple[str | None, str]]]] = [
    (
        "update intervals set energy_kwh = 0.9 where circuit_id = 'c-1' and version = 1 and energy_kwh = 3",
        [(f"{DAY}/3", "it is no longer what was committed")],
    ),
    ("update intervals set flag = 'estimated_interpolated' where energy_kwh = 3", [(f"{DAY}/3", "no longer what was")]),
    ("update intervals set site_id = 'site-2' where energy_kwh = 3", [(f"{DAY}/3", "no longer what was")]),
    (
        "update intervals set computed_at = computed_at + interval '1 us' where energy_kwh = 3",
        [(f"{DAY}/3", "no longer what was")],
    ),
    ("delete from intervals where energy_kwh = 3", [(f"{DAY}/3", "what it was about is gone")]),
    ("delete from attest_leaves where index = 3", [(f"{DAY}/3", "its row is missing")]),
    ("update attest_leaves set salt = sha256('x') where index = 3", [(f"{DAY}/3", "no longer what was")]),
    (
        "update attest_leaves set index = 9999 where index = 1; update attest_leaves set index = 1 where index = 899; "
        "update attest_leaves set index = 899 where index = 9999",
        [(f"{DAY}/1", "no longer what was"), (f"{DAY}/899", "no longer what was")],
    ),
    (
        "update attest_tiles set hashes = overlay(hashes placing sha256('x') from 97 for 32) "
        "where level = 0 and number = 0",
        [(f"{DAY}/3", "no longer what was"), (None, "tile 0 of level 0 is not the one below level 1")],
    ),
    (
        "update attest_tiles set hashes = overlay(hashes placing sha256('x') from 33 for 32) where level = 1",
        [
            (None, f"head {DAY}/900 is not the root of the leaves that are kept"),
            (None, "tile 1 of level 0 is not the one below level 1"),
        ],
    ),
    (
        "delete from attest_tiles where level = 1",
        [(None, "head"), *[(None, f"tile {one} of level 0") for one in range(3)]],
    ),
    ("update attest_heads set root = sha256('x')", [(None, "is not the root"), (None, "signature")]),
    ("update attest_heads set signature = '{flipped}'", [(None, f"the signature of head {DAY}/900 does not hold")]),
]


async def test_whatever_the_owner_of_the_database_changes_is_found_and_named(house: House, postgres_url: str) -> None:
    await house.commit(*(interval(quarter, float(quarter)) for quarter in range(900)))
    assert await house.faults() == []
    signature = (await house.proofs.latest())["head"]["signature"]
    await keep(postgres_url)
    for statement, expected in CHANGED:
        await by_hand(postgres_url, [statement.replace("{flipped}", flipped(signature))])
        found = await house.faults()
        assert [leaf for leaf, _ in found] == [leaf for leaf, _ in expected], (statement, found)
        assert all(words in said for (_, said), (_, words) in zip(found, expected, strict=True)), (statement, found)
        await restore(postgres_url)
    assert await house.faults() == []


async def test_what_was_changed_in_the_books_has_no_proof_that_holds(house: House, postgres_url: str) -> None:
    await house.commit(interval(0, 1.0), interval(1, 2.0))
    await by_hand(postgres_url, ["update intervals set energy_kwh = 0.9 where energy_kwh = 1"])
    code, words = verdict(await house.proofs.inclusion("circuit:c-1", START, None))
    assert code == 1
    assert "the leaf of circuit:c-1 is not leaf 0 of tree 2026-03-01" in words
    assert verdict(await house.proofs.chain("circuit:c-1", 0, 10))[0] == 1
    await by_hand(postgres_url, ["delete from intervals where energy_kwh = 0.9"])
    with pytest.raises(LogDamaged, match="no longer there"):
        await house.proofs.inclusion("circuit:c-1", START, None)
    with pytest.raises(LogDamaged, match="no longer there"):
        await house.proofs.chain("circuit:c-1", 0, 10)
    # What a hand adds was never committed.
    await by_hand(
        postgres_url,
        ["insert into intervals select circuit_id, site_id, start + interval '1 day', step_s, version, current, 7,"
         " flag, lower_bound, uncertain, computed_at from intervals"],
    )  # fmt: skip
    with pytest.raises(NotAttested, match="nothing was committed"):
        await house.proofs.inclusion("circuit:c-1", START + timedelta(days=1, minutes=15), None)


async def test_what_a_hand_adds_to_the_books_was_never_committed_and_is_named(house: House, postgres_url: str) -> None:
    circuits = [interval(0, 1.0, circuit=f"c-{number}") for number in range(2 * CIRCUITS_AT_ONCE)]
    await house.commit(*circuits, interval(1, 2.0))
    await house.book(interval(1, 2.5, version=2), interval(2, 3.0))
    assert await house.strays() == [], "what waits is on its way"
    await house.commit()
    assert await house.strays() == []
    a_row = (
        "insert into intervals select circuit_id, site_id, {start}, step_s, {version}, {current}, 7, flag, lower_bound,"
        " uncertain, computed_at from intervals where circuit_id = 'c-19'"
    )
    await by_hand(
        postgres_url,
        [
            a_row.format(start="start", version=2, current=False),
            a_row.format(start="start + interval '1 day'", version=1, current=True) + " and version = 1",
            "update intervals set current = false where circuit_id = 'c-1' and energy_kwh = 2.5",
            "update intervals set current = true where circuit_id = 'c-1' and energy_kwh = 2",
            "insert into emission_factors select 'OWN-2', 1, 's', 'supplier', 'electricity', 'CN', 2026, 0, "
            "'kgCO2/kWh', 'CO2', 'x', 2026, '2026-01-01', 'verified', 'x', 'x', false, 'x', 'x', 'user:x', now()",
        ],
    )
    assert await house.strays() == [
        ("factor:OWN-2", "version 1: it was never committed"),
        ("circuit:c-1", "2026-03-01T04:15:00+00:00, version 1: another version holds than the last one"),
        ("circuit:c-1", "2026-03-01T04:15:00+00:00, version 2: another version holds than the last one"),
        ("circuit:c-19", "2026-03-01T04:00:00+00:00, version 1: another version holds than the last one"),
        ("circuit:c-19", "2026-03-01T04:00:00+00:00, version 2: it was never committed"),
        ("circuit:c-19", "2026-03-02T04:00:00+00:00, version 1: it was never committed"),
    ]
    assert await house.faults() == [], "what was committed is as it was"


async def test_water_is_committed_as_electricity_is_and_its_changes_are_found(house: House, postgres_url: str) -> None:
    water = MediumBooks("water_volume")
    of = "medium:water_volume/w/1"
    async with house.db.write() as conn:
        await water.book(conn, [interval(quarter, 0.5, circuit="w/1") for quarter in range(3)])
    await house.commit(interval(0, 2.0, circuit="w/1"))
    assert await house.strays() == []
    kept = await house.proofs.latest()
    async with house.db.write() as conn:
        await water.book(conn, [interval(1, 0.7, circuit="w/1", version=2)])
    assert await house.strays() == [], "what waits is on its way"
    await house.commit(after=timedelta(hours=2))
    since = await house.proofs.consistency((DAY, 4), None)
    document = await house.proofs.inclusion(of, START + timedelta(minutes=15), None)
    code, words = verdict(document, since, witness=kept)
    assert code == 0, words
    assert f"{of} #4: 0.7 m3 in [" in words
    assert verdict(await house.proofs.chain(of, 0, 10))[0] == 0
    assert len((await house.proofs.chain("circuit:w/1", 0, 10))["entries"]) == 1
    assert await house.faults() == []
    await by_hand(
        postgres_url,
        [
            "update medium_intervals set quantity = 0.4 where start = (select min(start) from medium_intervals)",
            "delete from medium_intervals where version = 2",
            "insert into medium_intervals select 'a', point, site_id, start, step_s, version, current, 9, flag,"
            " lower_bound, uncertain, computed_at from medium_intervals where version = 1 and quantity = 0.4",
        ],
    )
    assert [(leaf, said[:30]) for leaf, said in await house.faults()] == [
        (f"{DAY}/0", "2026-03-01T04:00:00+00:00, ver"),
        (f"{DAY}/4", "what it was about is gone: lea"),
    ]
    assert await house.strays() == [
        ("medium:water_volume/a", "2026-03-01T04:00:00+00:00, version 1: it was never committed"),
        (of, "2026-03-01T04:15:00+00:00, version 1: another version holds than the last one"),
    ]


async def test_what_is_taken_out_of_the_books_before_it_is_committed_is_told(
    house: House, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await house.book(interval(0, 1.0), interval(1, 2.0))
    await by_hand(postgres_url, ["delete from intervals where energy_kwh = 1"])
    await house.commit()
    (told,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert told.message == "what waited to be committed is no longer in the books"
    assert told.__dict__["at"] == START.isoformat()
    assert verdict(await house.proofs.inclusion("circuit:c-1", START + timedelta(minutes=15), 1))[0] == 0


async def test_a_restored_backup_is_a_second_history_to_whoever_kept_a_head(house: House, postgres_url: str) -> None:
    await house.commit(interval(0, 1.0))
    await keep(postgres_url)
    await house.commit(interval(1, 2.0), after=timedelta(hours=1))
    witnessed = await house.proofs.latest()
    await restore(postgres_url)
    await house.commit(interval(1, 2.5))
    assert await house.faults() == [], "nothing is wrong with it to who did not keep a head"
    code, words = verdict(await house.proofs.inclusion("circuit:c-1", None, None), witness=witnessed)
    assert code == 1
    assert "TWO HISTORIES" in words


@pytest.mark.parametrize(
    "damage",
    [
        "delete from attest_tiles where level = 1",
        "update attest_tiles set hashes = overlay(hashes placing sha256('x') from 1 for 32) where level = 1",
        "update attest_log set size = 200",
        "delete from attest_tiles",
    ],
)
async def test_nothing_is_signed_over_a_log_that_lost_what_was_signed(
    house: House, postgres_url: str, damage: str
) -> None:
    await house.commit(*(interval(quarter, 1.0) for quarter in range(300)))
    await by_hand(postgres_url, [damage])
    with pytest.raises(LogDamaged, match="until a person has looked"):
        await house.commit(interval(300, 1.0), after=timedelta(hours=1))
    async with house.db.read() as conn:
        assert await conn.fetchval("select count(*) from attest_heads") == 1
        assert await conn.fetchval("select count(*) from attest_pending") == 1, "what waits goes on waiting"


async def test_the_service_itself_can_change_nothing_in_the_log(house: House) -> None:
    await house.commit(interval(0, 1.0))
    for statement in (
        "update attest_leaves set salt = $1",
        "update attest_heads set root = $1",
        "update attest_tiles set hashes = $1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with house.db.write() as conn:
                await conn.execute(statement, bytes(64))
    for table in ("attest_leaves", "attest_heads", "attest_tiles"):
        for verb in ("delete from", "truncate"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with house.db.write() as conn:
                    await conn.execute(f"{verb} {table}")


async def test_factors_and_statements_are_committed_with_what_the_books_hold_of_them(
    house: House, postgres_url: str
) -> None:
    shipped = load_shipped()
    assert await house.attesting.note_factors(shipped) == len(shipped)
    await house.commit(interval(0, 1.0))
    assert await house.attesting.note_factors(shipped) == 0
    text = '{"total":"12.5"}'
    for revision, value in ((1, "0.3500"), (2, "0.36")):
        async with house.db.write() as conn:
            await inventories.add_factor(conn, own_factor(revision, value))
            await inventories.add_statement(conn, stated(revision), text)
    head = await house.proofs.latest()
    await house.commit(after=timedelta(hours=1))
    plain = await house.proofs.inclusion(f"factor:{shipped[0].factor_id}", None, None)
    own = await house.proofs.inclusion("factor:OWN-1", None, 2)
    report = await house.proofs.inclusion("report:inventory/org-1", None, 1)
    code, words = verdict(plain, own, report, files={"march.json": hashlib.sha256(text.encode()).hexdigest()})
    assert code == 0, words
    assert "march.json is, byte for byte, the report that was committed" in words
    said = orjson.loads(own["leaf"])
    assert (said["value"], said["author"], said["corrects"]) == ("0.36", "user:li", f"{DAY}/{own['index'] - 2}")
    said = orjson.loads(report["leaf"])
    assert said["inputs"] == [{name: head["head"][name] for name in ("tree", "size", "root")}]
    assert orjson.loads((await house.proofs.inclusion("report:inventory/org-1", None, 2))["leaf"])["corrects"]
    assert verdict(await house.proofs.chain("factor:OWN-1", 0, 10))[0] == 0
    assert await house.faults() == []
    await by_hand(
        postgres_url,
        [
            "update emission_factors set value = 0.1 where revision = 1",
            'update published_statements set statement = \'{"total":"2.5"}\' where version = 1',
        ],
    )
    assert [(leaf, said.partition(": ")[2]) for leaf, said in await house.faults()] == [
        (f"{DAY}/{index}", "it is no longer what was committed") for index in (own["index"] - 2, report["index"])
    ]
    assert verdict(await house.proofs.inclusion("report:inventory/org-1", None, 1))[0] == 1
    await by_hand(postgres_url, ["delete from emission_factors where revision = 1"])
    with pytest.raises(LogDamaged, match="no longer there"):
        await house.proofs.inclusion("factor:OWN-1", None, 1)


def own_factor(revision: int, value: str) -> EmissionFactor:
    return EmissionFactor(
        factor_id="OWN-1", series="own", family=Family.SUPPLIER, category="electricity", region="CN", data_year=2026,
        value=Decimal(value), unit="kgCO2/kWh", gas="CO2", source="bill", source_year=None, known_from=DAY,
        confidence="verified", name_en="Own", name_zh="自有", revision=revision, evidence="contract 7",
        supplier="s-1", entered_by="user:li", entered_at=START,
    )  # fmt: skip


def stated(version: int) -> Stated:
    return Stated(
        kind=StatementKind.INVENTORY, statement_id="org-1", version=version, name="March", digest="00" * 32,
        table_digest="00" * 32, known_on=DAY, published_at=START, published_by="user:li",
    )  # fmt: skip


TABLES = ("intervals", "attest_leaves", "attest_ends", "attest_tiles", "attest_heads", "attest_log", "attest_pending")


async def keep(url: str) -> None:
    """Back the log and the books up."""
    await by_hand(url, ["create schema kept", *(f"create table kept.{one} as table {one}" for one in TABLES)])


async def restore(url: str) -> None:
    """Put the backup in their place."""
    statements = [f"truncate {', '.join(TABLES)}"]
    for one in TABLES:
        overriding = "overriding system value" if one == "attest_pending" else ""
        statements.append(f"insert into {one} {overriding} table kept.{one}")
    await by_hand(url, statements)
