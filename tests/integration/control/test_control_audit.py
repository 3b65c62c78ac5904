"""The audit of switching: written with the change, linked behind it, never written again, whole or seen broken."""

import asyncio
import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from libs.common.auditchain import Broken, Head, read_csv, read_ndjson, verify
from libs.common.bus import topics
from libs.common.contracts.control import Stage
from libs.common.errors import Conflict
from libs.common.lease import OneHolder
from services.control.api.audit import ATTEMPTS, UNCHANGING, pieces, signed_head
from services.control.domain.audit import Entry
from services.control.domain.calendars import DayClass
from services.control.domain.plans import Schedule, Window
from services.control.domain.policies import Scope
from services.control.store import audit as store
from services.control.usecases.auditing import Linker, record
from services.control.usecases.guardrules import GuardRules
from services.control.usecases.isolations import IsolationRequest
from tests.integration.control.control_world import World, received
from tests.integration.control.fake_ingest import until
from tests.integration.control.mortal import Fate, Killed, Mortal
from tests.integration.control.test_control_night import plan_in
from tests.integration.control.test_control_process import installation
from tests.integration.control.test_control_rules import result_of, switch, wake

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]


async def link(world: World) -> None:
    linker = Linker(db=world.db, clock=world.steady, keys=world.keys)
    while await linker.turn():
        pass


async def add(world: World, *names: str) -> None:
    async with world.db.write() as conn:
        await record(conn, *(Entry("user:a", "api", "test.do", name, world.clock.now()) for name in names))


async def entries(world: World) -> list[dict[str, Any]]:
    """Return every entry in the order in which it was written."""
    async with world.db.read() as conn:
        found = await store.fetch_page(
            conn, start=None, end=None, actor=None, subject=None, action=None, succeeded=None, before=None, limit=1000
        )
    return [dict(one.entry) for one in reversed(found)]


async def exported(world: World, form: str) -> list[str]:
    head = await signed_head(world.db, world.steady, world.keys)
    text = b"".join([piece async for piece in pieces(world.db, form, 0, head.seq, head)]).decode()
    return text.splitlines(keepends=True)


class TestWhatIsWritten:
    async def test_a_plans_night_says_who_switched_each_load_and_who_approved(self, world: World) -> None:
        for load_id in ("aau-1", "aau-2"):
            world.add_load(load_id)
        plan_id = await plan_in(world, "aau-1", "aau-2", off_in_s=60, off_for_s=600)
        await world.run(35, step_s=5)
        await world.run(700, step_s=5)
        found = await entries(world)
        assert [one["action"] for one in found[:2]] == ["plan.draft", "plan.approve"]
        draft, approve = found[:2]
        assert (draft["actor"], draft["before"], draft["after"]["state"]) == ("user:a", None, "draft")
        assert (approve["actor"], approve["before"]["state"], approve["after"]["state"]) == (
            "user:b", "draft", "approved",
        )  # fmt: skip
        assert approve["after"]["loads"] == ["aau-1", "aau-2"]
        switched = [one for one in found if one["action"].startswith("load.")]
        assert sorted((one["subject"], one["action"]) for one in switched) == [
            (f"load:aau-{number}", f"load.{word}") for number in (1, 2) for word in ("off", "on")
        ]
        for one in switched:
            assert (one["actor"], one["door"], one["succeeded"]) == (f"plan:{plan_id}", "plan", True)
            assert (one["after"]["approved_by"], one["after"]["attempts"]) == ("user:b", 1)
            assert one["after"]["load"] == one["action"].removeprefix("load.")
            assert one["after"]["feedback_value"] == float(one["action"] == "load.on")
        # Each of them is on control.events already; the audit of all services has the rest.
        assert [one["action"] for one in world.events(topics.AUDIT)] == [
            "plan.draft", "plan.approve", "plan.activate", "plan.end",
        ]  # fmt: skip

    async def test_a_load_that_a_guard_refuses_and_one_that_fails_are_on_record(self, world: World) -> None:
        world.add_load("hospital", obstacle="never_off")
        world.add_load("stuck").refuses_to_open = True
        await switch(world, "open", "hospital", reason="at night")
        await switch(world, "open", "stuck")
        await world.run(60, step_s=5)
        found = await entries(world)
        refused = found[0]
        assert (refused["action"], refused["succeeded"], refused["reason"]) == ("command.open", False, "at night")
        assert refused["after"]["refused"][0]["guard"] == "never_off"
        (off,) = [one for one in found if one["action"] == "load.off"]
        assert (off["actor"], off["door"], off["succeeded"]) == ("user:duty", "console", False)
        assert (off["after"]["state"], off["after"]["reason"]) == ("failed", "reads_closed")
        (told,) = [one for one in world.events(topics.AUDIT) if one.get("succeeded") is False]
        assert told["subject"] == refused["subject"]

    async def test_a_load_that_its_line_has_woken_says_so(self, world: World) -> None:
        world.add_load("a")
        off = (await switch(world, "open", "a", restore_in_s=600)).commands[0]
        await world.run(20, step_s=5)
        await world.handle([received(result_of(world, off.command_id, Stage.RESTORED, 1.0), 1000)])
        (on,) = [one for one in await entries(world) if one["action"] == "load.on"]
        assert (on["door"], on["actor"], on["after"]["load"]) == ("holder", "user:duty", "on")

    async def test_one_key_says_who_pressed_it(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a", restore_in_s=600)
        await world.run(20, step_s=5)
        await wake(world, "a")
        await world.run(30, step_s=5)
        found = {one["action"]: one for one in await entries(world)}
        assert found["wake_up.order"]["reason"] == "storm"
        assert (found["load.on"]["actor"], found["load.on"]["after"]["priority"]) == ("user:duty", "emergency")

    async def test_what_changes_says_what_it_was(self, world: World) -> None:
        world.add_load("a")
        rules = GuardRules(db=world.db, clock=world.steady, loads=world.loads, guards=world.guards, orders=world.orders)
        limits = {"max_offs_per_day": 3}
        await rules.put_policy(Scope.LOAD, "a", limits, "order 7", "user:m", "console")
        await rules.put_policy(Scope.LOAD, "a", {"max_offs_per_day": 4}, "order 8", "user:m", "console")
        mode = await rules.declare("all", "", "storm", "user:m", "console")
        await rules.end_emergency(mode.emergency_id, "over", "user:m", "console")
        await world.plans.put_calendar("c", "C", "notice", {date(2026, 5, 1): "x"}, "user:m", "console")
        await world.plans.put_calendar("c", "C", "notice 2", {date(2026, 5, 2): "y"}, "user:m", "console")
        plan_id = await plan_in(world, "a", off_in_s=3600)
        await world.plans.end(plan_id, "not wanted", "user:m", "console")
        wake_up = await wake(world, "a")
        await world.orders.release(wake_up, "user:m", "console")
        group = await switch(world, "open", "a", not_before=world.clock.now() + timedelta(seconds=900))
        await world.orders.cancel(group.commands[0].command_id, "no", "user:m", "console")
        await world.orders.release_trip("a", 1, "looked", "user:m", "console")
        last = {one["action"]: one for one in await entries(world)}
        assert last["guard_policy.set"]["before"] == limits
        assert (last["emergency_mode.end"]["before"]["in_force"], last["emergency_mode.end"]["after"]) == (
            True, {"in_force": False},
        )  # fmt: skip
        assert last["calendar.put"]["before"]["days"] == {"2026-05-01": "x"}
        assert last["plan.end"]["before"]["state"] == "approved"
        assert (last["plan.end"]["after"]["ended_by"], last["plan.end"]["reason"]) == ("user:m", "not wanted")
        assert last["wake_up.release"]["before"] == {"suspends": True}
        assert last["command.cancel"]["before"]["state"] == "scheduled"
        assert last["command.cancel"]["after"]["state"] == "cancelled"
        assert last["trip.release"]["before"] == {"released_trip": None}

    async def test_what_is_not_committed_is_not_on_record(self, world: World) -> None:
        world.add_load("a")
        plan_id = await plan_in(world, "a")
        before = len(await entries(world))
        with pytest.raises(Conflict):
            await world.plans.approve(plan_id, "user:b", "api")
        assert len(await entries(world)) == before


class TestWhatTimeDoes:
    """Nobody has asked for it at that moment, and an auditor wants to know of it all the same."""

    async def test_a_plan_that_begins_and_ends_says_so(self, world: World) -> None:
        world.add_load("a")
        plan_id = await plan_in(world, "a", off_in_s=60, off_for_s=600)
        await world.run(700, step_s=10)
        await link(world)
        begun, ended = [one for one in await entries(world) if one["action"] in ("plan.activate", "plan.end")]
        for one in (begun, ended):
            assert (one["actor"], one["door"], one["subject"]) == ("service:control", "service", f"plan:{plan_id}")
            assert one["succeeded"]
            assert (one["after"]["approved_by"], one["after"]["ended_by"]) == ("user:b", None)
        assert (begun["before"]["state"], begun["after"]["state"], begun["reason"]) == (
            "approved", "active", "first_date_reached",
        )  # fmt: skip
        assert (ended["before"]["state"], ended["after"]["state"], ended["reason"]) == ("active", "ended", "finished")
        told = [(one["action"], one["actor"]) for one in world.events(topics.AUDIT)]
        assert told[-2:] == [("plan.activate", "service:control"), ("plan.end", "service:control")]
        lines = await exported(world, "ndjson")
        assert verify(read_ndjson(lines)).hash == verify(read_csv(await exported(world, "csv"))).hash
        assert {"plan.activate", "plan.end"} <= {json.loads(line).get("action") for line in lines}

    async def test_one_that_was_over_before_anybody_looked_ends_without_having_begun(self, world: World) -> None:
        world.add_load("a")
        await plan_in(world, "a", off_in_s=60, off_for_s=600)
        await world.turn(by_s=86400 * 2)
        await world.turn(by_s=86400)
        steps = [
            (one["action"], one["before"]["state"], one["after"]["state"], one["reason"])
            for one in await entries(world) if one["actor"] == "service:control"
        ]  # fmt: skip
        assert steps == [("plan.end", "approved", "ended", "finished")]
        # What it did not do in its night is on record too.
        (missed,) = [one for one in await entries(world) if one["action"] == "load.off"]
        assert (missed["succeeded"], missed["after"]["reason"]) == (False, "too_late")

    async def test_a_load_that_no_command_was_made_for_says_why(self, world: World) -> None:
        for load_id in ("a", "b"):
            world.add_load(load_id)
        plan_id = await plan_in(world, "a", "b", off_in_s=60, off_for_s=600)
        await wake(world, "a")
        world.add_load("b", obstacle="never_off")
        await world.run(90, step_s=5)
        found = {one["subject"]: one for one in await entries(world) if one["action"] == "load.off"}
        assert {name: one["after"]["reason"] for name, one in found.items()} == {
            "load:a": "emergency", "load:b": "never_off",
        }  # fmt: skip
        for one in found.values():
            assert (one["actor"], one["door"], one["succeeded"]) == (f"plan:{plan_id}", "plan", False)
            assert (one["before"], one["after"]["state"]) == ({"state": "planned"}, "skipped")
            assert (one["after"]["approved_by"], one["after"]["plan_id"]) == ("user:b", plan_id)
        await world.run(600, step_s=10)
        assert len([one for one in await entries(world) if one["action"] == "load.off"]) == 2

    async def test_an_isolation_that_expires_says_so(self, world: World) -> None:
        world.add_load("a")
        expires_at = world.clock.now() + timedelta(hours=1)
        wanted = IsolationRequest(world.loads.loads["a"], "li", "P-7", "cabling", expires_at)
        isolation = await world.isolations.request(wanted, "user:a", "console")
        await world.isolations.approve(isolation.isolation_id, "user:b", "console")
        await world.run(3700, step_s=20)
        (one,) = [one for one in await entries(world) if one["action"] == "isolation.release"]
        assert (one["actor"], one["door"], one["reason"]) == ("service:control", "service", "expired")
        assert (one["before"]["state"], one["after"]["state"]) == ("active", "ended")

    async def test_an_order_that_nobody_agreed_to_says_so(self, world: World) -> None:
        world.add_load("a")
        rules = GuardRules(db=world.db, clock=world.steady, loads=world.loads, guards=world.guards, orders=world.orders)
        await rules.put_policy(Scope.LOAD, "a", {"two_persons": True}, "order 7", "user:m", "console")
        await switch(world, "open", "a", restore_in_s=7200)
        await world.run(3700, step_s=100)
        (one,) = [one for one in await entries(world) if one["action"] == "load.off"]
        assert (one["before"]["state"], one["after"]["state"]) == ("approval", "expired")
        assert (one["succeeded"], one["after"]["reason"]) == (False, "not_approved")

    async def test_a_clock_that_is_believed_again_says_so(self, world: World) -> None:
        world.add_load("a")
        await switch(world, "open", "a", restore_in_s=600)
        await world.run(5)
        world.clock.set_wall(world.clock.now() - timedelta(hours=1))
        await world.run(700, step_s=5)
        (one,) = [one for one in await entries(world) if one["action"] == "clock.follow"]
        assert (one["actor"], one["door"]) == ("service:control", "service")
        assert one["before"]["jump_s"] < -3000
        assert one["after"]["time"] < one["before"]["time"]

    async def test_a_plan_that_can_no_longer_be_followed_says_so(self, world: World) -> None:
        world.add_load("a")
        world.clock.set_wall(datetime(2026, 10, 1, tzinfo=UTC))
        world.start()
        days = {date(year, 10, 1): "x" for year in (2026, 2027)}
        await world.plans.put_calendar("c", "C", "notice", days, "user:m", "console")
        schedule = Schedule(
            date(2026, 10, 1), date(2027, 1, 31), (Window(time(23), time(6)),), "Asia/Shanghai",
            day_class=DayClass.WORKING_DAYS, working_calendar="c",
        )  # fmt: skip
        plan, _ = await world.plans.draft("p", ["a"], schedule, (), None, "user:a", "api")
        await world.plans.approve(plan.plan_id, "user:b", "api")
        async with world.db.write() as conn:  # past the use case, which would refuse it
            await conn.execute("delete from calendar_days where day >= '2027-01-01'")
        await world.clock.advance(86400 * 3)
        await world.tick()
        (one,) = [one for one in await entries(world) if one["action"] == "plan.follow"]
        assert (one["actor"], one["subject"], one["succeeded"]) == (
            "service:control", f"plan:{plan.plan_id}", False,
        )  # fmt: skip
        assert "2027" in one["reason"]


class TestTheDatabase:
    @pytest.mark.parametrize("statement", [
        "update audit set actor = 'user:nobody'",
        "update audit set succeeded = true where false",
        "delete from audit",
        "truncate audit",
        "update audit_links set hash = decode(repeat('00', 32), 'hex')",
        "delete from audit_links",
        "truncate audit_links",
    ])  # fmt: skip
    async def test_refuses_to_write_it_again(self, world: World, statement: str) -> None:
        await add(world, "one")
        await link(world)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            async with world.db.write() as conn:
                await conn.execute(statement)
        assert verify(read_ndjson(await exported(world, "ndjson"))).last == 1


class TestTheChain:
    async def test_is_what_was_written_in_both_forms_and_ends_with_asigned_head(self, world: World) -> None:
        texts = ["plain", 'comma, "quote"\r\nnew line', "退网唤醒 😀", "=1+1", ""]
        async with world.db.write() as conn:
            for number, text in enumerate(texts):
                facts = {"text": text, "number": number / 3, "at": world.clock.now(), "none": None, "list": [1, [text]]}
                await record(conn, Entry("user:a", "api", "test.do", f"x:{number}", world.clock.now(),
                                         before=facts if number else None, after=facts, reason=text))  # fmt: skip
        await link(world)
        by_lines, by_sheet = await exported(world, "ndjson"), await exported(world, "csv")
        whole, sheet = verify(read_ndjson(by_lines)), verify(read_csv(by_sheet))
        assert (whole.first, whole.last, whole.hash) == (1, 5, sheet.hash)
        assert whole.head is not None
        assert (whole.head.seq, whole.head.hash) == (whole.last, whole.hash)
        assert whole.head.holds(world.keys, "control")
        stored = await entries(world)
        shown = [line for line in map(json.loads, by_lines) if "head" not in line]
        for one, line in zip(stored, shown, strict=True):
            assert {**one, "at": one["at"].isoformat().replace("+00:00", "Z")} == {name: line[name] for name in one}

    async def test_a_change_behind_the_triggers_back_is_found(self, world: World) -> None:
        await add(world, "one", "two", "three", "four")
        await link(world)
        for number, statement in enumerate([
            "update audit set actor = 'user:nobody' where subject = 'two'",
            "delete from audit where subject = 'two'",
            "delete from audit_links where seq = 2",
        ]):  # fmt: skip
            async with world.db.write() as conn:
                await conn.execute("alter table audit disable trigger all")
                await conn.execute("alter table audit_links disable trigger all")
                await conn.execute(statement)
            with pytest.raises(Broken) as caught:
                verify(read_ndjson(await exported(world, "ndjson")))
            assert caught.value.seq == 2, number

    async def test_its_head_is_published_when_it_moved(self, world: World) -> None:
        linker = Linker(db=world.db, clock=world.steady, keys=world.keys)
        await add(world, "one")
        await linker.turn()
        await add(world, "two")
        await linker.turn()
        await world.relay()
        heads = [one for one in world.events(topics.AUDIT) if one["action"] == "audit.head"]
        assert [one["after"]["seq"] for one in heads] == [1]  # type: ignore[index]
        await world.clock.advance(61)
        await linker.turn()
        await world.clock.advance(61)
        await linker.turn()
        await world.relay()
        heads = [one for one in world.events(topics.AUDIT) if one["action"] == "audit.head"]
        assert [one["after"]["seq"] for one in heads] == [1, 2]  # type: ignore[index]
        published = [Head.read(one["after"]) for one in heads]
        assert all(head.holds(world.keys, "control") for head in published)
        assert verify(read_ndjson(await exported(world, "ndjson")), published).last == 2

    @pytest.mark.parametrize("fate", [Fate.DIES_BEFORE, Fate.DIES_AFTER])
    async def test_a_linker_that_is_killed_leaves_no_hole_and_nothing_twice(self, world: World, fate: Fate) -> None:
        await add(world, "one")
        await link(world)
        await add(world, "two", "three")  # committed, and whoever wrote it is gone before it is linked
        mortal = Mortal(world.db)
        mortal.fate = lambda: fate
        with pytest.raises(Killed):
            await Linker(db=mortal, clock=world.steady, keys=world.keys).turn()  # type: ignore[arg-type]
        await add(world, "four")
        await link(world)
        lines = [json.loads(line) for line in await exported(world, "ndjson")]
        assert verify(lines).last == 4
        assert [line["subject"] for line in lines[:4]] == ["one", "two", "three", "four"]

    async def test_writers_and_two_linkers_at_once_make_one_chain(self, world: World) -> None:
        linkers = [Linker(db=world.db, clock=world.steady, keys=world.keys) for _ in "ab"]
        done = asyncio.Event()

        async def write(name: str) -> None:
            for number in range(10):
                await add(world, *(f"{name}-{number}-{part}" for part in range(5)))

        async def run(linker: Linker) -> None:
            while not done.is_set():
                await linker.turn()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            # Both believe that the lease is theirs, as after a pause of one of them.
            for linker in linkers:
                group.create_task(run(linker))
            async with asyncio.TaskGroup() as writers:
                for name in "abc":
                    writers.create_task(write(name))
            done.set()
        await link(world)
        lines = [json.loads(line) for line in await exported(world, "ndjson")]
        assert verify(lines).last == 150
        assert len({line["entry_id"] for line in lines[:-1]}) == 150

    async def test_a_part_of_it_can_be_verified_from_where_it_begins(self, world: World) -> None:
        await add(world, "one")
        await link(world)
        await world.clock.advance(3600)
        since = world.clock.now()
        await add(world, "two", "three")
        await link(world)
        async with world.db.read() as conn:
            assert await store.fetch_span(conn, since, None) == (2, 3)
            assert await store.fetch_span(conn, None, since) == (1, 1)
            assert await store.fetch_span(conn, since + timedelta(days=1), None) is None
        head = await signed_head(world.db, world.steady, world.keys)
        parts = [piece async for piece in pieces(world.db, "ndjson", 1, 3, head)]
        found = verify(read_ndjson(b"".join(parts).splitlines()))
        assert (found.first, found.last) == (2, 3)


async def test_one_process_at_a_time_holds_the_lease(world: World) -> None:
    holders = [OneHolder(db=world.db, clock=world.clock, owner=name, name="audit", ttl_s=6.0) for name in "ab"]
    assert [await holder.hold() for holder in holders] == [True, False]


async def test_over_http(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with installation(postgres_url, tmp_path, monkeypatch, watchdog=False) as found:
        path = "/api/v1/commands/audit"
        reader = found.headers(scopes=("control:read",), who="li")
        assert (await found.client.get(path, headers=reader)).status_code == 403
        refused = [
            await found.client.post("/api/v1/wake-ups", json={"scope": "all"}, headers=reader),
            await found.call("POST", "/api/v1/plans/nowhere/approve"),
            await found.call("POST", "/api/v1/commands", {"action": "open", "load_id": "aau-1"}),
            await found.call("POST", "/api/v1/commands",
                             {"action": "open", "load_id": "hospital", "restore_at": "2099-01-01T00:00:00Z"}),
        ]  # fmt: skip
        assert [one.status_code for one in refused] == [403, 404, 400, 400]
        first = await found.get(f"{path}?succeeded=false&limit=3")
        rest = await found.call(
            "GET", f"{path}?succeeded=false&limit=3&cursor={first['next_cursor'].replace('+', '%2B')}"
        )
        items = list(reversed(first["items"] + rest.json()["items"]))
        assert [(one["actor"], one["action"], one["subject"].partition(":")[0]) for one in items] == [
            ("user:li", "wake_up.order", "wake_up"), ("user:duty", "plan.approve", "plan"),
            ("user:duty", "command.order", "group"), ("user:duty", "command.open", "group"),
        ]  # fmt: skip
        assert [one["after"].get("code") for one in items] == ["forbidden", "not_found", "invalid_input", None]
        assert items[2]["after"]["asked"] == {"action": "open", "load_id": "aau-1"}
        assert items[1]["subject"] == "plan:nowhere"
        assert [one["subject"] for one in (await found.get(f"{path}?actor=user:li"))["items"]] == ["wake_up:new"]

        async def linked() -> bool:
            return bool((await found.get(f"{path}/head"))["seq"] == 4)

        await until(linked, "all are linked")
        by_lines = await found.call("GET", f"{path}/export")
        whole = verify(read_ndjson(by_lines.text.splitlines()))
        assert (whole.first, whole.last) == (1, 4)
        assert whole.head is not None
        assert whole.head.holds(found.platform.keys, "control")
        by_sheet = await found.call("GET", f"{path}/export?format=csv")
        assert verify(read_csv(by_sheet.text.splitlines(keepends=True))).hash == whole.hash
        later = await found.call("GET", f"{path}/export?after=2")
        assert verify(read_ndjson(later.text.splitlines())).first == 3
        assert (await found.call("GET", f"{path}?cursor=rubbish")).status_code == 400
        # What somebody slips in is kept as far as every database takes it: the gateway's too.
        odd = await found.client.post("/api/v1/commands/groups/no%00where/approve", headers=found.headers())
        nul = await found.call("POST", "/api/v1/plans/x/end", {"reason": "a\0b"})
        assert [odd.status_code, nul.status_code] == [400, 404]
        last, before = (await found.get(f"{path}?succeeded=false&limit=2"))["items"]
        assert (last["action"], last["after"]["asked"]) == ("plan.end", {"bytes": 21})
        assert before["subject"] == "group:no\ufffdwhere"
        # Every path that changes something has a name for its refused attempts.
        operations = (await found.get("/openapi.json"))["paths"]
        changing = {
            (method.upper(), route) for route, methods in operations.items() for method in methods
            if method in ("post", "put", "delete", "patch")
        }  # fmt: skip
        assert changing - UNCHANGING == set(ATTEMPTS)
