"""Statements of energy performance contracts on a real database and API: made, reconciled, signed, then fixed."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from libs.common.bus import topics
from libs.common.contracts.registry import Binding
from libs.common.ids import CircuitId, DeviceId
from services.carbon.documents.statements import content_of, document_of
from services.carbon.domain.savings.measurement.days import opening
from services.carbon.store import statements as statements_store
from tests.integration.carbon.savings_world import World, open_world, registry
from tests.integration.carbon.why_walk import Walk

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

BEFORE, START, END = date(2022, 4, 1), date(2022, 5, 1), date(2022, 5, 31)
CONTRACTS = "/savings/contracts/office-1"


@pytest.fixture
async def world(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A branch that used 48 kWh a day in April and 36 kWh a day in May, 12 kWh of them less at night."""
    async with open_world(postgres_url, tmp_path, registry()) as found:
        await found.book("branch-1", opening(BEFORE), [0.5] * 96 * 30)
        await found.book("branch-1", opening(START), ([0.125] * 32 + [0.5] * 64) * 30)
        await found.read("meter-1", [(opening(START), 1000.0), (opening(END), 1027.0)], ratio=40.0)
        yield found


def contract(**more: Any) -> dict[str, Any]:
    return {
        "contract_id": "office-1",
        "name": "Lighting of a base station",
        "name_zh": "基站照明合同能源管理",
        "parties": {"customer": "District office", "company": "Saver Ltd."},
        "signers": {"customer": ["user:li"], "company": ["user:wang"]},
        "circuits": ["branch-1"],
        "measurement": {"basis": "comparison", "before": {"start": "2022-04-01", "end": "2022-05-01"}},
        "prices": {
            "prices_id": "office-1-prices",
            "version": 2,
            "source": "contract, clause 5",
            "bands": [
                {"band": "valley", "price_cny_per_kwh": 0.31, "hours": [["00:00", "08:00"]]},
                {"band": "flat", "price_cny_per_kwh": 0.8, "hours": [["08:00", "24:00"]]},
            ],
        },
        "company_share": "0.7",
        "start": "2022-05-01",
        "end": "2027-05-01",
        **more,
    }


async def drafted(world: World, **more: Any) -> dict[str, Any]:
    """A contract and a draft of its first month."""
    await world.ask("PUT", CONTRACTS, {"version": 1, "contract": contract()})
    body = {"start": START.isoformat(), "end": END.isoformat(), **more}
    found: dict[str, Any] = await world.ask("POST", f"{CONTRACTS}/statements", body, status=201)
    return found


async def offered(world: World) -> dict[str, Any]:
    one = await drafted(world)
    path = f"/savings/statements/{one['statement_id']}"
    theirs = {"theirs_kwh": 1081.0, "source": "customer's platform, export of 2 June"}
    await world.ask("PUT", f"{path}/meters/meter-1", theirs)
    found: dict[str, Any] = await world.ask("POST", f"{path}/offer")
    return found


async def sign(world: World, one: dict[str, Any], party: str, subject: str, **more: Any) -> dict[str, Any]:
    body = {"party": party, "digest": more.pop("digest", one["digest"])}
    path = f"/savings/statements/{one['statement_id']}/sign"
    found: dict[str, Any] = await world.ask("POST", path, body, subject=subject, scopes=("carbon:read",), **more)
    return found


async def frozen(world: World) -> dict[str, Any]:
    one = await offered(world)
    await sign(world, one, "customer", "li")
    return await sign(world, one, "company", "wang")


async def test_a_statement_has_registers_saving_prices_money_and_shares(world: World) -> None:
    one = await drafted(world)
    (meter,) = one["registers"]
    assert (meter["start_kwh"], meter["end_kwh"], meter["ratio"], meter["energy_kwh"]) == (1000.0, 1027.0, 40.0, 1080.0)
    assert datetime.fromisoformat(meter["start_at"]) == opening(START)
    assert datetime.fromisoformat(meter["end_at"]) == opening(END)
    assert one["saving"]["saving_kwh"] == pytest.approx(360.0)
    assert one["saving"]["basis"] == "comparison"
    assert one["saving"]["fractional_uncertainty"] == pytest.approx(0.0, abs=1e-6)
    assert [(line["band"], round(line["energy_kwh"], 6)) for line in one["lines"]] == [("valley", 360.0), ("flat", 0.0)]
    assert one["money_fen"] == 11160
    assert one["shares_fen"] == {"company": 7812, "customer": 3348}
    assert (one["prices_id"], one["prices_version"], one["company_share"]) == ("office-1-prices", 2, "0.7")
    assert one["open_meters"] == ["meter-1"]
    assert one["state"] == "draft"


async def test_it_is_not_offered_until_both_receivers_agree(world: World) -> None:
    one = await drafted(world)
    path = f"/savings/statements/{one['statement_id']}"
    refused = await world.ask("POST", f"{path}/offer", status=409)
    assert refused["code"] == "not_reconciled"
    assert "meter-1" in refused["detail_zh"]
    far = await world.ask("PUT", f"{path}/meters/meter-1", {"theirs_kwh": 900.0, "source": "their export"})
    (row,) = far["reconciliation"]
    assert (row["agreement"], row["difference_kwh"]) == ("deviates", -180.0)
    await world.ask("POST", f"{path}/offer", status=409)
    near = await world.ask("PUT", f"{path}/meters/meter-1", {"theirs_kwh": 1080.5, "source": "their export"})
    assert near["reconciliation"][0]["agreement"] == "agreed"
    assert (await world.ask("POST", f"{path}/offer"))["state"] == "offered"
    await world.ask("PUT", f"{path}/meters/other", {"theirs_kwh": 1.0, "source": "x"}, status=404)


async def test_a_difference_is_taken_by_a_person_of_each_party(world: World) -> None:
    one = await drafted(world)
    path = f"/savings/statements/{one['statement_id']}"
    body = {"reason": "their platform was down"}
    await world.ask("POST", f"{path}/meters/meter-1/accept", body, subject="stranger", status=403)
    by_one = await world.ask("POST", f"{path}/meters/meter-1/accept", body, subject="li")
    assert by_one["reconciliation"][0]["agreement"] == "missing"
    await world.ask("POST", f"{path}/offer", status=409)
    by_both = await world.ask("POST", f"{path}/meters/meter-1/accept", body, subject="wang")
    assert by_both["reconciliation"][0]["agreement"] == "accepted"
    assert by_both["reconciliation"][0]["accepted_by"] == {"customer": "user:li", "company": "user:wang"}
    assert (await world.ask("POST", f"{path}/offer"))["state"] == "offered"


async def test_both_parties_sign_the_same_content_and_then_nothing_changes(world: World) -> None:
    one = await offered(world)
    path = f"/savings/statements/{one['statement_id']}"
    first = await sign(world, one, "customer", "li")
    assert first["state"] == "signed_by_one"
    await world.ask("PUT", f"{path}/meters/meter-1", {"theirs_kwh": 1.0, "source": "x"}, status=409)
    both = await sign(world, one, "company", "wang")
    assert both["state"] == "frozen"
    assert [(row["party"], row["person"], row["digest"]) for row in both["signatures"]] == [
        ("customer", "user:li", one["digest"]),
        ("company", "user:wang", one["digest"]),
    ]
    for method, place, body in (
        ("POST", "withdraw", {"reason": "second thoughts"}),
        ("POST", "compute-again", {}),
        ("POST", "offer", None),
        ("PUT", "meters/meter-1", {"theirs_kwh": 1.0, "source": "x"}),
    ):
        assert (await world.ask(method, f"{path}/{place}", body, status=409))["code"] == "statement_frozen"
    # What the books say later does not reach it.
    await world.book("branch-1", opening(START), [0.4] * 96, version=2)
    assert await world.ask("GET", path) == both


async def test_not_even_the_database_lets_a_frozen_statement_change(world: World) -> None:
    await frozen(world)
    for statement in (
        "update epc_statements set state = 'draft'",
        "delete from epc_statements",
        "update epc_contents set content = '{}'",
        "delete from epc_signatures",
        "update epc_signatures set person = 'user:other'",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="signed statement"):
            async with world.db.write() as conn:
                await conn.execute(statement)


async def test_who_signs(world: World) -> None:
    one = await offered(world)
    assert (await sign(world, one, "company", "li", status=403))["code"] == "not_a_signer"
    assert (await sign(world, one, "customer", "stranger", status=403))["code"] == "not_a_signer"
    await sign(world, one, "customer", "li", kind="key", status=403)
    changed = await sign(world, one, "customer", "li", digest="0" * 64, status=409)
    assert "重新查看" in changed["detail_zh"]
    await sign(world, one, "customer", "li")
    await sign(world, one, "customer", "li", status=409)
    both = contract(signers={"customer": ["user:li"], "company": ["user:li", "user:wang"]})
    reply = await world.ask("PUT", CONTRACTS, {"version": 2, "contract": both}, status=400)
    assert "both parties" in reply["detail"]


async def test_either_party_withdraws_before_both_have_signed_and_the_days_are_free_again(world: World) -> None:
    one = await offered(world)
    await sign(world, one, "customer", "li")
    days = {"start": START.isoformat(), "end": END.isoformat()}
    taken = await world.ask("POST", f"{CONTRACTS}/statements", days, status=409)
    assert taken["code"] == "period_stated"
    path = f"/savings/statements/{one['statement_id']}/withdraw"
    await world.ask("POST", path, {"reason": "wrong prices"}, subject="stranger", status=403)
    gone = await world.ask("POST", path, {"reason": "wrong prices"}, subject="wang")
    assert (gone["state"], gone["withdrawn_reason"]) == ("withdrawn", "wrong prices")
    await world.ask("POST", f"{CONTRACTS}/statements", days, status=201)
    listed = await world.ask("GET", f"{CONTRACTS}/statements")
    assert [row["state"] for row in listed] == ["withdrawn", "draft"]


async def test_a_correction_is_another_statement_beside_the_frozen_one(world: World) -> None:
    one = await frozen(world)
    await world.book("branch-1", opening(START), [0.5] * 32, version=2)  # one night saved nothing after all
    days = {"start": START.isoformat(), "end": END.isoformat(), "supersedes": one["statement_id"]}
    other = await world.ask("POST", f"{CONTRACTS}/statements", days, status=201)
    assert other["money_fen"] == 11160 - 372
    assert other["corrects_fen"] == {"company": -260, "customer": -112}
    assert (await world.ask("GET", f"/savings/statements/{one['statement_id']}"))["money_fen"] == 11160
    await world.ask("POST", f"{CONTRACTS}/statements", days, status=400)  # superseded already


async def test_an_unsigned_statement_is_made_anew_with_later_data_and_adjustments(world: World) -> None:
    one = await offered(world)
    path = f"/savings/statements/{one['statement_id']}"
    await world.book("branch-1", opening(START), [0.5] * 32, version=2)
    change = {"energy_kwh": -6.0, "reason": "a camera was taken out", "evidence": "work order 12"}
    again = await world.ask("POST", f"{path}/compute-again", {"adjustments": [change]})
    assert (again["version"], again["state"]) == (one["version"] + 1, "draft")
    assert again["saving"]["saving_kwh"] == pytest.approx(360.0 - 12.0 - 6.0)
    assert again["saving"]["adjustments"][0]["author"] == "user:li"
    assert again["reconciliation"][0]["theirs_kwh"] == 1081.0
    assert again["digest"] != one["digest"]


async def test_a_replaced_meter_is_named_with_both_its_registers(world: World) -> None:
    moved = opening(START) + timedelta(days=10)
    common = {"version": 1, "changed_by": "user:test", "name": "Binding"}
    old = Binding(
        id="b-1",
        device=DeviceId("meter-1"),
        circuit=CircuitId("branch-1"),
        valid_from=datetime(2021, 1, 1, tzinfo=UTC),
        valid_to=moved,
        final_register=1009.0,
        **common,
    )
    new = Binding(
        id="b-9",
        device=DeviceId("meter-9"),
        circuit=CircuitId("branch-1"),
        valid_from=moved,
        initial_register=5.0,
        **common,
    )
    await world.learn([old, new])
    await world.read("meter-9", [(opening(END), 725.0)])
    found = await drafted(world)
    assert [(row["device_id"], row["start_kwh"], row["end_kwh"], row["energy_kwh"]) for row in found["registers"]] == [
        ("meter-1", 1000.0, 1009.0, 360.0),
        ("meter-9", 5.0, 725.0, 720.0),
    ]


async def test_what_cannot_be_stated_is_refused_by_name(world: World) -> None:
    await world.ask("PUT", CONTRACTS, {"version": 1, "contract": contract()})
    path = f"{CONTRACTS}/statements"
    outside = await world.ask("POST", path, {"start": "2022-04-20", "end": "2022-05-10"}, status=400)
    assert "2022-05-01" in outside["detail"]
    silent = await world.ask("POST", path, {"start": "2022-07-01", "end": "2022-08-01"}, status=400)
    assert silent["detail_zh"]
    await world.read("meter-1", [(opening(START) + timedelta(days=3), 1003.0)], ratio=60.0)
    ratios = await world.ask("POST", path, {"start": START.isoformat(), "end": END.isoformat()}, status=400)
    assert "40, 60" in ratios["detail"]
    assert (await world.ask("GET", path)) == []
    await world.ask("PUT", CONTRACTS, {"version": 3, "contract": contract()}, status=409)
    await world.ask("PUT", CONTRACTS, {"version": 2, "contract": contract(circuits=["nowhere"])}, status=404)
    await world.ask("PUT", CONTRACTS, {"version": 2, "contract": contract(company_share="1.2")}, status=422)


async def test_who_may_see_contracts_and_statements(world: World) -> None:
    one = await drafted(world)
    elsewhere = ("site-2",)
    await world.ask("GET", CONTRACTS, sites=elsewhere, status=403)
    await world.ask("GET", f"/savings/statements/{one['statement_id']}", sites=elsewhere, status=403)
    await world.ask("GET", f"/savings/statements/{one['statement_id']}", scopes=("alarm:read",), status=403)
    assert (await world.ask("GET", "/savings/contracts", sites=elsewhere))["items"] == []
    assert [row["contract_id"] for row in (await world.ask("GET", "/savings/contracts"))["items"]] == ["office-1"]
    await world.ask("POST", f"{CONTRACTS}/statements", {}, scopes=("carbon:read",), status=403)
    async with world.db.read() as conn:
        assert await conn.fetchval("select count(*) from outbox where topic = $1", topics.AUDIT) == 2


async def test_what_is_stored_has_the_digest_of_what_was_signed(world: World) -> None:
    one = await offered(world)
    async with world.db.read() as conn:
        kept = await statements_store.fetch_statement(conn, one["statement_id"])
        digests = await conn.fetch("select digest from epc_contents order by version")
    assert kept is not None
    assert kept.content.digest == one["digest"] == digests[-1]["digest"]
    assert content_of(document_of(kept.content)) == kept.content


async def test_a_statement_is_traced_to_its_prices_and_registers(world: World) -> None:
    one = await drafted(world)
    walk = Walk(world.ask)
    found = await walk.figure(figure="statement", id=one["statement_id"])
    assert float(found["value"]) * 100 == one["money_fen"]
    assert float(found["inputs"][0]["value"]) == 111.6
    assert walk.seen.count("statement_line") == 2
    saving = await walk.figure(figure="statement_saving", id=one["statement_id"])
    assert (saving["rule"], saving["value"]) == ("difference", one["saving"]["saving_kwh"])
    meter = await walk.figure(figure="statement_meter", id=one["statement_id"], line="meter-1")
    assert meter["value"] == one["registers"][0]["energy_kwh"]
    assert [row["value"] for row in meter["inputs"]] == [1000.0, 1027.0]
    asked: dict[str, Any] = {"figure": "statement", "id": one["statement_id"]}
    assert (await world.ask("GET", "/energy/trace", sites=("elsewhere",), status=403, **asked))["detail_zh"]
    gone: dict[str, Any] = {**asked, "figure": "statement_meter", "line": "other"}
    assert (await world.ask("GET", "/energy/trace", status=404, **gone))["detail_zh"]
