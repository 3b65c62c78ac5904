"""HTTP of notifications: channels and routes kept or refused, who would be told, what became of messages."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.common.bus import topics
from libs.common.contracts.alarm import Condition
from libs.common.contracts.base import Phase
from services.alarm.domain.places import Place
from services.alarm.store import notifications as store
from services.alarm.store.notifications import NewNotification, NotificationRow
from services.alarm.usecases.channels import note_fails
from tests.integration.alarm.alarm_door import Door
from tests.integration.alarm.alarm_world import FAILURE, at

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.sql]

WECOM = {"name": "值班群", "config": {"kind": "wecom"}, "credentials_ref": "wecom.duty"}
ROUTE = {"name": "all", "channels": ["duty"]}


async def put_channel(door: Door, channel_id: str = "duty", *, status: int = 200, **body: Any) -> Any:
    return await door.ask("PUT", f"/notifications/channels/{channel_id}", {**WECOM, **body}, status=status)


async def put_route(door: Door, route_id: str = "all", *, status: int = 200, **body: Any) -> Any:
    return await door.ask("PUT", f"/notifications/routes/{route_id}", {**ROUTE, **body}, status=status)


class TestChannels:
    async def test_a_channel_shows_the_name_of_its_secret_and_the_rate_of_its_receiver(self, door: Door) -> None:
        channel = await put_channel(door)
        assert (channel["credentials_ref"], channel["rate_per_min"]) == ("wecom.duty", 20)
        assert channel["config"]["url"] == "https://qyapi.weixin.qq.com/cgi-bin/webhook/send"
        assert await door.ask("GET", "/notifications/channels") == [channel]

    @pytest.mark.parametrize(
        "config",
        [
            {"kind": "pigeon"},
            {"kind": "webhook", "url": "ftp://example.com"},
            {"kind": "webhook", "url": "https://user:secret@example.com/"},
            {"kind": "wecom", "key": "k-1"},
            {"kind": "wecom", "url": "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=k-1"},
            {"kind": "smtp", "host": "mail.example.com", "sender": "a@example.com", "to": ["not an address"]},
            {"kind": "sms", "url": "https://sms.example.com", "body": {"t": "{text}"}, "phones": ["call me"]},
        ],
        ids=["kind", "scheme", "password in the URL", "a secret in the open", "a key in a URL", "address", "telephone"],
    )
    async def test_what_makes_no_sense_is_refused(self, door: Door, config: Any) -> None:
        await put_channel(door, status=422, config=config)

    async def test_a_password_without_tls_is_refused(self, door: Door) -> None:
        mail = {"kind": "smtp", "host": "mail.example.com", "sender": "a@example.com", "to": ["b@example.com"]}
        refused = await put_channel(door, status=400, config={**mail, "tls": "none"})
        assert "starttls" in refused["detail"]
        await put_channel(door, config=mail)

    async def test_a_channel_in_use_stays(self, door: Door) -> None:
        await put_channel(door)
        await put_route(door)
        refused = await door.ask("DELETE", "/notifications/channels/duty", status=409)
        assert "all" in refused["detail"]
        await door.ask("DELETE", "/notifications/routes/all", status=204)
        await door.ask("DELETE", "/notifications/channels/duty", status=204)
        await door.ask("DELETE", "/notifications/channels/duty", status=404)
        await door.ask("POST", "/notifications/channels/duty/test", status=404)

    async def test_who_sees_some_sites_only_changes_nothing_of_it(self, door: Door) -> None:
        body = {**WECOM}
        refused = await door.ask("PUT", "/notifications/channels/duty", body, status=403, sites=("site-1",))
        assert refused["detail_zh"].startswith("通知渠道与路由")
        await door.ask("PUT", "/notifications/channels/duty", body, status=403, scopes=("alarm:read",))

    async def test_a_trial_message_is_on_record_and_changes_are_audited(self, door: Door) -> None:
        await put_channel(door)
        await door.ask("POST", "/notifications/channels/duty/test", status=204)
        (message,) = (await door.ask("GET", "/notifications"))["items"]
        assert (message["kind"], message["state"], message["channel_id"]) == ("trial", "sent", "duty")
        async with door.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1", topics.AUDIT)
        assert len(rows) == 2

    @pytest.mark.parametrize("change", ["off", "gone", "tried"])
    async def test_nobody_waits_for_a_channel_that_is_off_gone_or_takes_a_trial_message(
        self, door: Door, change: str
    ) -> None:
        await put_channel(door)
        async with door.world.db.write() as conn:
            await note_fails(conn, "duty", datetime.now(UTC))
        assert (await door.ask("GET", "/notifications/channels"))[0]["failing_since"] is not None
        if change == "off":
            assert (await put_channel(door, enabled=False))["failing_since"] is None
        elif change == "gone":
            await door.ask("DELETE", "/notifications/channels/duty", status=204)
        else:
            await door.ask("POST", "/notifications/channels/duty/test", status=204)
        async with door.world.db.read() as conn:
            rows = await conn.fetch("select value from outbox where topic = $1 order by id", topics.CONDITIONS)
        assert [Condition.from_json(row["value"]).phase for row in rows] == [Phase.BEGIN, Phase.END]


class TestRoutes:
    async def test_a_route_is_kept_with_what_it_leaves_out(self, door: Door) -> None:
        await put_channel(door)
        kept = await put_route(door)
        route = kept["route"]
        assert (route["group_wait_s"], route["group_interval_s"], route["repeat_interval_s"]) == (30, 300, 14_400)
        assert route["group_by"] == ["region", "signal"]
        assert [one["route_id"] for one in await door.ask("GET", "/notifications/routes")] == ["all"]

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"channels": ["nobody"]}, 400),
            ({"match": {"sites": ["nowhere"]}}, 400),
            ({"escalation": [{"after_s": 600, "channels": ["boss"]}]}, 400),
            ({"escalation": [{"after_s": 600, "channels": ["duty"]}, {"after_s": 60, "channels": ["duty"]}]}, 422),
            ({"timezone": "Moon/Crater"}, 422),
            ({"quiet_hours": [{"from": "25:00", "to": "07:00"}]}, 422),
            ({"repeat_interval_s": 5}, 422),
            ({"match": {"levels": [5]}}, 422),
        ],
    )
    async def test_what_names_nothing_or_makes_no_sense_is_refused(self, door: Door, body: Any, status: int) -> None:
        await put_channel(door)
        await put_route(door, status=status, **body)
        assert await door.ask("GET", "/notifications/routes") == []


class TestTry:
    async def test_it_says_who_would_be_told_when_and_by_which_route(self, door: Door) -> None:
        door.world.registry.at["site-1"] = Place("site-1", "Site 1", None, ("d-1", "province"), "D")
        await put_channel(door)
        await put_channel(door, "boss", enabled=False)
        night = [{"from": "22:00", "to": "07:00"}]
        escalation = [{"after_s": 900, "channels": ["boss"]}]
        await put_route(door, "worst", position=1, match={"levels": [1]}, channels=["duty", "boss"])
        await put_route(
            door, "province", position=2, match={"regions": ["province"]}, quiet_hours=night, escalation=escalation
        )
        await put_route(door, "off", position=0, enabled=False)
        asked = {"site_id": "site-1", "device_id": "m-1", "signal": FAILURE, "level": 1, "at": at(0).isoformat()}
        (worst,) = await door.ask("POST", "/notifications/try", asked)
        assert (worst["route_id"], worst["channels"], worst["disabled_channels"]) == ("worst", ["duty"], ["boss"])
        (other,) = await door.ask("POST", "/notifications/try", {**asked, "level": 3})
        assert (other["route_id"], other["group_key"]) == ("province", f"region=d-1,signal={FAILURE}")
        assert other["first_told_at"] == at(30).isoformat().replace("+00:00", "Z")
        assert (other["held_until"], other["escalation"]) == (None, [{"after_s": 900.0, "channels": ["boss"]}])
        midnight = (at(0) + timedelta(hours=12)).isoformat()
        (held,) = await door.ask("POST", "/notifications/try", {**asked, "level": 3, "at": midnight})
        assert (
            held["held_until"]
            == held["first_told_at"]
            == (at(0) + timedelta(hours=19)).isoformat().replace("+00:00", "Z")
        )
        assert (
            await door.ask("POST", "/notifications/try", {**asked, "site_id": "site-2", "device_id": None, "level": 2})
            == []
        )
        await door.ask("POST", "/notifications/try", {**asked, "site_id": "nowhere"}, status=400)
        await door.ask("POST", "/notifications/try", {**asked, "device_id": "m-2"}, status=400)
        await door.ask("POST", "/notifications/try", asked, status=400, sites=("site-2",))


class TestMessages:
    async def put(self, door: Door, number: int, **facts: Any) -> str:
        sites = facts.pop("site_ids", ["site-1"])
        row = NotificationRow(
            **{
                "notification_id": f"n-{number}",
                "channel_id": "duty",
                "route_id": "all",
                "kind": "news",
                "created_at": at(number),
                "title": "t",
                "body": "b",
                "alarms": [],
                "alarm_count": 1,
                "state": "pending",
                "attempts": 0,
                "next_attempt_at": None,
                "sent_at": None,
                "error": None,
                "error_zh": None,
                **facts,
            }
        )
        async with door.world.db.write() as conn:
            await store.put_notifications(conn, [NewNotification(row, [f"a-{number}"], sites)])
        return row.notification_id

    async def test_messages_are_listed_in_pages_and_by_alarm_and_state(self, door: Door) -> None:
        for number in range(5):
            await self.put(door, number, state="failed" if number == 3 else "pending")
        seen: list[str] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await door.ask("GET", "/notifications", limit=2, **cursor)
            seen += [item["notification_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == ["n-4", "n-3", "n-2", "n-1", "n-0"]
        questions: tuple[tuple[dict[str, Any], str], ...] = (({"alarm": "a-2"}, "n-2"), ({"state": "failed"}, "n-3"))
        for wanted, found in questions:
            (item,) = (await door.ask("GET", "/notifications", **wanted))["items"]
            assert item["notification_id"] == found

    async def test_who_sees_some_sites_sees_messages_that_speak_of_no_other(self, door: Door) -> None:
        await self.put(door, 1)
        await self.put(door, 2, site_ids=["site-1", "site-2"])
        await self.put(door, 3, site_ids=None)
        items = (await door.ask("GET", "/notifications", sites=("site-1",)))["items"]
        assert [item["notification_id"] for item in items] == ["n-1"]
        await door.ask("GET", "/notifications/n-1", sites=("site-1",))
        await door.ask("GET", "/notifications/n-2", sites=("site-1",), status=404)
        await door.ask("GET", "/notifications/n-3")

    async def test_only_what_has_failed_is_tried_again(self, door: Door) -> None:
        await self.put(door, 1, state="failed", error="away", error_zh="无应答")
        await self.put(door, 2)
        again = await door.ask("POST", "/notifications/n-1/retry", status=202)
        assert (again["state"], again["attempts"]) == ("pending", 0)
        await door.ask("POST", "/notifications/n-2/retry", status=409)
        await door.ask("POST", "/notifications/n-9/retry", status=404)
