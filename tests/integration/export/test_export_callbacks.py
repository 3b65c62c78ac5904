"""Callbacks against a real receiver on a real database: signed, numbered, in order, whatever the receiver does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from libs.common.bus import topics
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, EndReason
from libs.common.contracts.base import Phase
from libs.common.contracts.control import CommandState, OccurrenceState
from libs.common.errors import NotFound
from libs.common.ids import AlarmId, DeviceId, SiteId
from libs.common.metrics import render
from libs.common.outgoing import NotAllowed
from services.export.callbacks import queues
from services.export.domain.callbacks import BREAKER_FAILURES, EndpointState, NewsType, Verdict
from services.export.usecases.administration import Actor
from services.export.usecases.callbacks import Caller
from tests.integration.export.callback_world import ADMIN, KEY, World, control, received, world
from tests.peers.callback_receiver import Call, Receiver, Say, receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FAILED = CommandState.FAILED


@pytest.fixture
async def found(postgres_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(postgres_url, tmp_path) as built:
        yield built


@pytest.fixture
async def app() -> AsyncIterator[Receiver]:
    async with receiver() as running:
        yield running


async def findings(found: World) -> list[bytes]:
    """Return what alarm has been told."""
    return [value for topic, value in await found.outbox() if topic == topics.CONDITIONS]


def alarm(alarm_id: str, level: int = 3, phase: Phase = Phase.BEGIN, **more: object) -> AlarmEvent:
    began = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)
    end = {"ended_at": began, "end_reason": EndReason.RECOVERED, "sequence": 2} if phase is Phase.END else {}
    return AlarmEvent.model_validate(
        {"alarm_id": AlarmId(alarm_id), "site_id": SiteId("s-1"), "sequence": 1, "phase": phase,
         "level": AlarmLevel(level), "signal": "x", "began_at": began, "device_id": DeviceId("d-1"), **end, **more}
    )  # fmt: skip


async def test_a_failed_wake_up_arrives_signed_with_the_payload_of_the_topic(found: World, app: Receiver) -> None:
    endpoint, secret = await found.endpoint(app.url)
    found.start()
    sent = control(FAILED, reason="not_verified")
    await found.tell(received(sent, event_id="event-1"))
    await app.took(1)
    (call,) = app.calls
    assert call.is_signed_with(secret)
    assert call.headers["content-type"].startswith("application/cloudevents+json")
    assert call.id == "event-1"
    assert call.event == {
        "specversion": "1.0", "id": "event-1", "source": "/wattring/control", "type": "wattring.command.result.v1",
        "subject": "load/l-1", "time": "2026-03-08T06:02:11Z", "datacontenttype": "application/json",
        "sequence": "000000000001", "siteid": "s-1", "data": sent.model_dump(mode="json", exclude_none=True),
    }  # fmt: skip
    await found.settled(endpoint, "delivered")
    (logged,) = await found.log(endpoint)
    assert (logged.status, logged.attempts, logged.log[0]["outcome"]) == (200, 1, "delivered")
    await found.check_books()


async def test_an_event_that_the_bus_gives_twice_is_told_once(found: World, app: Receiver) -> None:
    endpoint, _ = await found.endpoint(app.url)
    found.start()
    event = received(control(FAILED))
    await found.tell(event, event)
    await found.tell(event, control(CommandState.SUCCEEDED))
    await found.settled(endpoint, "delivered", "delivered")
    assert [call.event["sequence"] for call in app.calls] == ["000000000001", "000000000002"]


class TestChoice:
    async def test_each_gets_what_it_has_chosen(self, found: World) -> None:
        async with receiver() as all_, receiver() as mine, receiver() as region, receiver() as limited:
            await found.endpoint(all_.url)
            await found.endpoint(mine.url, NewsType.COMMAND_RESULT, NewsType.ALARM_BEGIN, actors=["key:app"])
            await found.endpoint(region.url, NewsType.COMMAND_RESULT, sites=["region:r-2"])
            only_s1 = Caller(Actor("key:small", None), ("s-1",), sees_all=False)
            await found.endpoint(limited.url, caller=only_s1, sites=["s-1", "s-2"])
            found.start()
            await found.tell(
                received(control(FAILED), event_id="mine"),
                received(control(FAILED, site="s-2", load="l-2", actor="user:li"), event_id="other"),
                received(control(CommandState.ACCEPTED, load="l-3"), event_id="progress"),
                received(control(OccurrenceState.OVERDUE, load="l-4", actor=None), event_id="overdue"),
                received(alarm("a-1"), event_id="alarm"),
            )
            await all_.took(5)
            await mine.took(2)
            await region.took(1)
            await limited.took(4)
            assert {call.id for call in mine.calls} == {"mine", "alarm"}
            assert [call.id for call in region.calls] == ["other"]
            assert {call.id for call in limited.calls} == {"mine", "progress", "overdue", "alarm"}
            types = {call.id: call.event["type"] for call in all_.calls}
            assert types == {
                "mine": "wattring.command.result.v1",
                "other": "wattring.command.result.v1",
                "progress": "wattring.command.progress.v1",
                "overdue": "wattring.occurrence.overdue.v1",
                "alarm": "wattring.alarm.begin.v1",
            }

    async def test_what_happened_before_the_endpoint_is_not_its_news(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        old = received(control(FAILED), at=found.clock.now() - timedelta(hours=1))
        await found.tell(old)
        assert await found.log(endpoint) == []

    async def test_an_explained_alarm_is_told_only_to_who_has_heard_of_it(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(alarm("quiet", inhibited_by="w-1"), alarm("loud"))
        await found.tell(
            alarm("quiet", phase=Phase.END, inhibited_by="w-1"), alarm("loud", phase=Phase.END, inhibited_by="w-1"),
            alarm("old", historical=True),
        )  # fmt: skip
        await found.settled(endpoint, "delivered", "delivered")
        assert [(call.data["alarm_id"], call.data["phase"]) for call in app.calls] == [
            ("loud", "begin"),
            ("loud", "end"),
        ]


class TestOrder:
    async def test_one_resource_waits_for_its_own_and_no_other_for_it(self, found: World, app: Receiver) -> None:
        app.script = lambda call: Say(500) if call.id == "first" else Say()
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(
            received(control(CommandState.ACCEPTED), event_id="first"),
            received(control(CommandState.SUCCEEDED), event_id="second"),
            received(control(CommandState.SUCCEEDED, load="l-2"), event_id="other"),
        )
        await app.until(lambda: {"first", "other"} <= {call.id for call in app.calls})
        await found.settled(endpoint, "retrying", "queued", "delivered")
        app.script = lambda _: Say()
        await found.advance(7)
        await found.settled(endpoint, "delivered", "delivered", "delivered")
        assert [call.id for call in app.accepted if call.data["load_id"] == "l-1"] == ["first", "second"]
        await found.check_books()

    async def test_what_is_urgent_hurries_what_stands_before_it(self, found: World, app: Receiver) -> None:
        app.script = lambda _: Say(503)
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(received(control(CommandState.ACCEPTED), event_id="first"))
        await found.attempted(endpoint, 1)
        await found.advance(7)
        await found.attempted(endpoint, 2)  # the next one would be after five minutes
        await found.tell(received(control(FAILED), event_id="urgent"))
        await found.attempted(endpoint, 3)
        app.script = lambda _: Say()
        await found.advance(20)
        await found.settled(endpoint, "delivered", "delivered")
        assert [call.id for call in app.accepted] == ["first", "urgent"]

    async def test_the_urgent_goes_first_when_places_are_few(self, found: World, app: Receiver) -> None:
        await found.endpoint(app.url, concurrency=1)
        await found.tell(*(control(CommandState.SUCCEEDED, load=f"l-{n}") for n in range(5)))
        await found.tell(received(alarm("a-1", level=1), event_id="urgent"))
        found.start()
        await app.took(6)
        assert app.calls[0].id == "urgent"


class TestFaults:
    @pytest.mark.parametrize(
        ("say", "verdict", "state"),
        [
            (Say(500), "failed", "retrying"),
            (Say(404, body=b"no such\nhook"), "refused", "refused"),
            (Say(302, headers=(("location", "http://127.0.0.1:1/"),)), "refused", "refused"),
            (Say(fault="hang"), "timeout", "retrying"),
            (Say(fault="head"), "timeout", "retrying"),
            (Say(fault="drop"), "failed", "retrying"),
            (Say(fault="garbage"), "failed", "retrying"),
            (Say(204), "delivered", "delivered"),
            (Say(fault="drip"), "delivered", "delivered"),
            (Say(fault="huge"), "delivered", "delivered"),
        ],
        ids=lambda value: f"{value.fault or value.status}" if isinstance(value, Say) else "",
    )
    async def test_each_has_its_outcome(self, found: World, app: Receiver, say: Say, verdict: str, state: str) -> None:
        app.script = lambda _: say
        endpoint, _ = await found.endpoint(app.url, timeout_s=1.0)
        found.start()
        await found.tell(control(CommandState.SUCCEEDED))
        logged = await found.attempted(endpoint, 1)
        assert (logged.log[0]["outcome"], logged.state.value) == (verdict, state)
        assert len(app.calls) == 1
        if say.status == 404:
            assert logged.error == "the receiver answered 404: no such hook"

    async def test_410_disables_until_somebody_resumes(self, found: World, app: Receiver) -> None:
        app.script = lambda _: Say(410)
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(control(CommandState.SUCCEEDED))
        await found.attempted(endpoint, 1)
        after = await found.now(endpoint)
        assert (after.state, after.state_reason) == (
            EndpointState.DISABLED,
            "the receiver answered 410: it does not want this any more",
        )
        await found.tell(control(CommandState.SUCCEEDED, load="l-2"))
        assert len(await found.log(endpoint)) == 1
        (told,) = await findings(found)
        assert b'"phase":"begin"' in told
        app.script = lambda _: Say()
        await found.administration.resume(endpoint.id, KEY)
        await found.advance(7)
        await found.settled(endpoint, "delivered")
        assert b'"phase":"end"' in (await findings(found))[-1]

    async def test_retry_after_is_heeded_for_the_endpoint(self, found: World, app: Receiver) -> None:
        app.script = lambda _: Say(429, headers=(("retry-after", "120"),))
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(control(CommandState.SUCCEEDED))
        await found.attempted(endpoint, 1)
        app.script = lambda _: Say()
        await found.tell(control(FAILED, load="l-2"))
        await found.advance(60)
        assert (await found.now(endpoint)).not_before is not None
        assert len(app.calls) == 1
        await found.advance(61)
        await found.settled(endpoint, "delivered", "delivered")

    async def test_an_address_inside_is_refused_when_it_is_named_and_when_it_is_called(
        self, postgres_url: str, tmp_path: Path, app: Receiver
    ) -> None:
        async with world(postgres_url, tmp_path, allowed=["localhost"]) as found:
            with pytest.raises(NotAllowed, match="WATTRING_EXPORT__CALLBACKS__ALLOWED"):
                await found.endpoint(app.url)
            endpoint, _ = await found.endpoint("http://receiver.invalid/hooks")
            async with found.db.write() as conn:  # its name has come to mean an address inside
                await conn.execute("update callback_endpoints set url = $1", app.url)
            found.start()
            await found.tell(control(CommandState.SUCCEEDED))
            logged = await found.attempted(endpoint, 1)
            assert logged.log[0]["outcome"] == "not_allowed"
            assert app.calls == []


class TestHostileReceivers:
    async def test_who_hangs_or_redirects_inwards_or_answers_slowly_is_bounded_and_visible(
        self, found: World, app: Receiver
    ) -> None:
        async with (
            receiver() as inside,
            receiver(lambda _: Say(fault="hang")) as hangs,
            receiver(lambda _: Say(fault="head")) as slow,
            receiver(lambda _: Say(302, headers=(("location", inside.url),))) as leads,
        ):
            bad = [await found.endpoint(each.url, concurrency=2, timeout_s=0.5) for each in (hangs, slow, leads)]
            await found.endpoint(app.url)
            found.start()
            await found.tell(*(control(CommandState.SUCCEEDED, load=f"l-{n}") for n in range(12)))
            await app.took(12)
            for endpoint, _ in bad:
                async with asyncio.timeout(40):
                    while (await found.now(endpoint)).failures < BREAKER_FAILURES:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            # Each is called no more than twice at a time, and then only probed; nobody is called by what another says.
            for each in (hangs, slow, leads):
                assert len(each.calls) <= BREAKER_FAILURES + 1
            assert inside.calls == []
            outcomes = [(await found.attempted(endpoint, 1)).log[0] for endpoint, _ in bad]
            assert [each["outcome"] for each in outcomes] == ["timeout", "timeout", "refused"]
            # In the log an attempt says how long it took, and at the fields of the endpoint why it is not called.
            assert [outcomes[0]["error"], outcomes[2]["status"]] == ["no answer within 0.5 s", 302]
            assert [(await found.now(endpoint)).error for endpoint, _ in bad][2] == "the receiver answered 302"
            assert 'wattring_webhook_attempts_total{outcome="timeout"}' in render().decode()
            # After five minutes alarm is told of each.
            await found.advance(301)
            async with asyncio.timeout(40):
                while len(told := await findings(found)) < len(bad):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert all(b'"phase":"begin"' in each and b'"callback_failing"' in each for each in told)
            for endpoint, _ in bad:
                assert any(endpoint.id.encode() in each for each in told)
            await found.check_books()


class TestBreaker:
    async def test_a_dead_endpoint_is_probed_and_delays_nobody(self, found: World, app: Receiver) -> None:
        async with receiver(lambda _: Say(500)) as dead:
            bad, _ = await found.endpoint(dead.url)
            await found.endpoint(app.url)
            found.start()
            await found.tell(*(control(CommandState.SUCCEEDED, load=f"l-{n}") for n in range(20)))
            await app.took(20)
            await dead.has(BREAKER_FAILURES)
            async with asyncio.timeout(40):
                while (await found.now(bad)).failures < BREAKER_FAILURES:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            opened = len(dead.calls)
            assert opened < 20
            await found.tell(control(FAILED))
            await app.took(21)
            assert len(dead.calls) == opened
            # A probe at a time, then everything once one is taken.
            dead.script = lambda _: Say()
            await found.advance(80)
            await found.settled(bad, *["delivered"] * 21)
            assert (await found.now(bad)).failures == 0
        await found.check_books()

    async def test_days_of_failure_disable(self, found: World, app: Receiver) -> None:
        app.script = lambda _: Say(500)
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(control(CommandState.SUCCEEDED))
        await found.attempted(endpoint, 1)
        await found.advance(5 * 86400)
        await found.attempted(endpoint, 2)
        assert (await found.now(endpoint)).state is EndpointState.DISABLED


class TestPeople:
    async def test_pause_keeps_what_happens_and_resume_sends_it(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.administration.pause(endpoint.id, KEY)
        await found.tell(control(CommandState.SUCCEEDED))
        event_id, outcome = await found.administration.test(endpoint.id, KEY)
        assert outcome.verdict is Verdict.DELIVERED
        assert [(call.id, call.event["type"]) for call in app.calls] == [(event_id, "wattring.callback.test.v1")]
        await found.administration.resume(endpoint.id, KEY)
        await found.settled(endpoint, "delivered")

    async def test_a_rotated_secret_counts_beside_the_old_one_for_a_while(self, found: World, app: Receiver) -> None:
        endpoint, old = await found.endpoint(app.url)
        found.start()
        new, _ = await found.administration.rotate(endpoint.id, KEY, valid_for_s=60)
        await found.tell(control(CommandState.SUCCEEDED))
        await app.took(1)
        assert app.calls[0].is_signed_with(old)
        assert app.calls[0].is_signed_with(new)
        await found.settled(endpoint, "delivered")
        await found.advance(61)
        await found.tell(control(CommandState.SUCCEEDED))
        await app.took(2)
        assert app.calls[1].is_signed_with(new)
        assert not app.calls[1].is_signed_with(old)

    async def test_secrets_are_stored_encrypted_and_said_nowhere(
        self, found: World, app: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        app.script = lambda call: Say(500, body=str(call.headers).encode())
        endpoint, secret = await found.endpoint(app.url + "?token=geheim-1")
        found.start()
        await found.tell(control(CommandState.SUCCEEDED))
        logged = await found.attempted(endpoint, 1)
        bare = secret.removeprefix("whsec_")
        for place in (endpoint.secrets.decode(), str(await found.outbox()), caplog.text, str(logged), str(endpoint)):
            assert bare not in place
        assert "geheim" not in str(await found.outbox())

    async def test_others_do_not_see_it(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        stranger = Caller(Actor("key:other", None), None, sees_all=False)
        for attempt in (
            found.administration.pause(endpoint.id, stranger),
            found.administration.rotate(endpoint.id, stranger, valid_for_s=1),
            found.administration.test(endpoint.id, stranger),
            found.administration.remove(endpoint.id, stranger),
        ):
            with pytest.raises(NotFound):
                await attempt
        await found.administration.pause(endpoint.id, ADMIN)

    async def test_replay_sends_once_more_in_order_under_the_same_ids(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        before = found.clock.now()
        await found.tell(*(received(control(CommandState.SUCCEEDED), event_id=f"e-{n}") for n in range(3)))
        await found.settled(endpoint, *["delivered"] * 3)
        await found.advance(10)
        assert await found.administration.replay(endpoint.id, KEY, start=before, end=None, states=["given_up"]) == 0
        states = ["given_up", "delivered"]
        assert await found.administration.replay(endpoint.id, KEY, start=before, end=None, states=states) == 3
        await app.took(6)
        assert [call.id for call in app.calls] == ["e-0", "e-1", "e-2"] * 2
        await found.settled(endpoint, *["delivered"] * 3)
        await found.check_books()

    async def test_a_removed_endpoint_is_called_no_more_and_its_rows_go(self, found: World, app: Receiver) -> None:
        endpoint, _ = await found.endpoint(app.url)
        await found.tell(control(CommandState.SUCCEEDED))
        await found.administration.remove(endpoint.id, KEY)
        found.start()
        await found.tell(control(CommandState.SUCCEEDED, load="l-2"))
        await found.clock.advance(31 * 86400)
        await found.keeper.tidy()
        async with found.db.read() as conn:
            for table in ("callback_deliveries", "callback_queues", "callback_endpoints", "callback_events"):
                assert await conn.fetchval(f"select count(*) from {table}") == 0, table
        assert app.calls == []


class TestBounds:
    async def test_what_is_too_old_or_too_much_is_given_up_and_the_rest_goes_on(
        self, found: World, app: Receiver
    ) -> None:
        app.script = lambda _: Say(500)
        endpoint, _ = await found.endpoint(app.url)
        await found.tell(received(control(CommandState.SUCCEEDED), event_id="old"))
        await found.clock.advance(5 * 86400 + 1)
        await found.tell(*(control(CommandState.SUCCEEDED, load=f"l-{n}") for n in range(101)))
        await found.keeper.tidy()
        states = [each.state.value for each in await found.log(endpoint)]
        assert states == ["given_up", "given_up", *["queued"] * 100]
        await found.check_books()
        app.script = lambda _: Say()
        found.start()
        await app.took(100)

    async def test_a_receiver_that_says_no_five_times_means_it(self, found: World, app: Receiver) -> None:
        app.script = lambda call: Say(422) if call.id == "bad" else Say()
        endpoint, _ = await found.endpoint(app.url)
        found.start()
        await found.tell(
            received(control(CommandState.ACCEPTED), event_id="bad"),
            received(control(CommandState.SUCCEEDED), event_id="next"),
        )
        for attempts in range(1, 6):
            await found.attempted(endpoint, attempts)
            await found.advance(10_000)
        await found.settled(endpoint, "given_up", "delivered")
        told = [value for topic, value in await found.outbox() if topic == topics.DELIVERY_EVENTS]
        assert [b'"given_up"' in value for value in told] == [False, True]

    async def test_the_gauges_show_the_oldest(self, found: World, app: Receiver) -> None:
        await found.endpoint(app.url)
        await found.tell(control(CommandState.SUCCEEDED), alarm("a-1", level=1))
        await found.clock.advance(90)
        await found.keeper.measure()
        text = render().decode()
        assert 'wattring_webhook_oldest_pending_seconds{lane="fast"} 90.0' in text
        assert 'wattring_webhook_pending{lane="normal"} 1.0' in text
        assert 'wattring_webhook_endpoints{state="active"} 1.0' in text


async def test_two_senders_share_the_work_and_keep_the_order(found: World, app: Receiver) -> None:
    endpoint, _ = await found.endpoint(app.url)
    found.start("export-a")
    found.start("export-b")
    for n in range(10):
        await found.tell(*(control(CommandState.SUCCEEDED, load=f"l-{load}", reason=str(n)) for load in range(6)))
    await app.took(60)
    await found.settled(endpoint, *["delivered"] * 60)
    assert len(app.calls) == 60
    for load in range(6):
        told = [call.data["reason"] for call in app.calls if call.data["load_id"] == f"l-{load}"]
        assert told == [str(n) for n in range(10)]
    await found.check_books()


async def test_what_a_dead_sender_had_taken_is_sent_by_another_once_its_time_is_over(
    found: World, app: Receiver
) -> None:
    endpoint, _ = await found.endpoint(app.url, timeout_s=20.0)
    await found.tell(received(control(FAILED), event_id="e-1"))
    async with found.db.statements() as conn:
        now = found.clock.now()
        until = now + timedelta(seconds=50)
        (taken,) = await queues.take(conn, {endpoint.id: 8}, now, until={endpoint.id: until}, owner="export-dead")
    assert taken.event_id == "e-1"
    found.start("export-b")
    await found.advance(40)
    await found.tell(control(FAILED, load="l-2"))
    await app.took(1)
    assert "e-1" not in {call.id for call in app.calls}
    await found.advance(11)
    await app.until(lambda: "e-1" in {call.id for call in app.calls})


async def test_a_sender_that_is_stopped_writes_what_became_of_its_calls(found: World, app: Receiver) -> None:
    answered = asyncio.Event()

    def script(_: Call) -> Say:
        answered.set()
        return Say()

    app.script = script
    endpoint, _ = await found.endpoint(app.url)
    found.start()
    await found.tell(control(FAILED))
    await asyncio.wait_for(answered.wait(), 40)
    await found.stop()
    assert [each.state.value for each in await found.log(endpoint)] == ["delivered"]
