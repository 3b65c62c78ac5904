"""Callbacks as an integrator sees them: the API, the README's receiver, the OpenAPI document; over the real bus."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.contracts.control import CommandState
from libs.common.contracts.telemetry import Reading
from libs.common.ids import DeviceId, SiteId
from services.export.api.callbacks import ReadingsCallback
from services.export.domain.callbacks import NewsType
from tests.integration.export.callback_world import control
from tests.integration.export.conftest import Export, Kit, free_port
from tests.peers.callback_receiver import receiver

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

README = Path(__file__).parents[3] / "services" / "export" / "README.md"
NEW = {"name": "app", "url": "http://127.0.0.1:9/hooks", "types": ["command.result"]}


async def asked(export: Export, method: str, path: str, body: Any = None, **claims: Any) -> httpx.Response:
    """Ask as somebody of the test's choice."""
    who = {"subject": "app", "kind": "key", "scopes": ["export:read", "export:write"], **claims}
    token = export.keys.sign_token("gateway", audience="export", **who)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{export.api_port}", trust_env=False, timeout=30) as http:
        headers = {"authorization": f"Bearer {token}"}
        return await http.request(method, f"/api/v1{path}", json=body, headers=headers)


@asynccontextmanager
async def readme_receiver(secret: str, port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Run the example of the README; yield what it says."""
    (code,) = re.findall(r"A receiver in Python.*?```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, env={"WEBHOOK_SECRET": secret, "PORT": str(port)}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def test_the_receiver_of_the_readme_is_told_of_a_failed_wake_up(export: Export, kit: Kit) -> None:
    port = free_port()
    body = {**NEW, "url": f"http://127.0.0.1:{port}/", "only_mine": True}
    created = (await asked(export, "POST", "/callbacks", body)).json()
    assert (created["owner"], created["actors"]) == ("key:app", ["key:app"])
    async with readme_receiver(created["secret"], port) as said:

        async def listens() -> bool:
            tested = (await asked(export, "POST", f"/callbacks/{created['id']}/test")).json()
            return bool(tested["outcome"] == "delivered")

        await kit.until(listens)
        await export.publish(
            control(CommandState.FAILED, actor="user:li"), control(CommandState.FAILED, reason="not_verified")
        )
        async with asyncio.timeout(60):
            line = await said.readline()
    assert line.decode().strip() == "load/l-1 close failed not_verified"


async def test_what_was_not_taken_before_a_restart_is_taken_after_it(export: Export, kit: Kit) -> None:
    port = free_port()
    created = (await asked(export, "POST", "/callbacks", {**NEW, "url": f"http://127.0.0.1:{port}/"})).json()
    await export.publish(control(CommandState.FAILED))

    async def tried() -> bool:
        found = (await asked(export, "GET", f"/callbacks/{created['id']}/deliveries")).json()["items"]
        return bool(found) and found[0]["state"] == "retrying"

    await kit.until(tried)
    await export.stop()
    await export.publish(control(CommandState.SUCCEEDED))
    async with receiver(port=port) as app:
        await export.start()
        await app.took(2)
        assert [call.event["sequence"] for call in app.accepted] == ["000000000001", "000000000002"]
        assert all(call.is_signed_with(created["secret"]) for call in app.calls)


async def test_readings_come_from_the_bus_in_batches_with_the_points_that_were_chosen(export: Export) -> None:
    async with receiver() as app:
        body = {**NEW, "url": app.url, "types": ["readings.batch"], "points": ["voltage_a"], "sites": ["s-1"]}
        created = (await asked(export, "POST", "/callbacks", body)).json()
        assert (created["points"], created["kinds"]) == (["voltage_a"], None)
        now = datetime.now(UTC)
        await export.publish(
            *(
                Reading(
                    device_id=DeviceId(f"m-{number}"), site_id=SiteId(site), source_time=now, received_at=now,
                    driver="modbus", points={"voltage_a": 230.0 + number, "current_a": 1.0},
                )
                for number, site in enumerate(["s-1", "s-2", "s-1"])
            )
        )  # fmt: skip
        async with asyncio.timeout(60):
            while sum(call.event["data"]["count"] for call in app.accepted) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert all(call.is_signed_with(created["secret"]) for call in app.calls)
        told = [one for call in app.accepted for one in ReadingsCallback.model_validate(call.event).data.readings]
        assert [(one.device_id, one.points) for one in told] == [
            ("m-0", {"voltage_a": 230.0}), ("m-2", {"voltage_a": 232.0}),
        ]  # fmt: skip


async def test_wrong_endpoints_are_refused_with_the_field(export: Export) -> None:
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"url": "ftp://127.0.0.1/"}, 400, "http://"),
        ({"url": "http://user:geheim@127.0.0.1/"}, 400, "without user and password"),
        ({"url": "http://127.0.0.1/#x"}, 400, "fragment"),
        ({"url": "http://127.0.0.2/"}, 403, "WATTRING_EXPORT__CALLBACKS__ALLOWED"),
        ({"url": "http://169.254.169.254/latest"}, 403, "WATTRING_EXPORT__CALLBACKS__ALLOWED"),
        ({"types": []}, 422, "types"),
        ({"types": ["command.finished"]}, 422, "types"),
        ({"types": ["callback.test"]}, 422, "types"),
        ({"concurrency": 33}, 422, "concurrency"),
        ({"timeout_s": 0.1}, 422, "timeout_s"),
        ({"secret": "mine"}, 422, "secret"),
        ({"owner": "li"}, 422, "owner"),
        ({"points": []}, 422, "points"),
        ({"points": ["Voltage A"]}, 422, "points"),
        ({"kinds": ["*"]}, 422, "kinds"),
    ]
    for changes, status, words in wrong:
        answer = await asked(export, "POST", "/callbacks", {**NEW, **changes})
        assert answer.status_code == status, (changes, answer.text)
        assert words in answer.json()["detail"], changes
        assert answer.json()["detail_zh"], changes
        assert "geheim" not in answer.text
    assert (await asked(export, "GET", "/callbacks")).json() == []


async def test_who_may_what(export: Export) -> None:
    created = await asked(export, "POST", "/callbacks", NEW, sites=["s-1"])
    assert created.status_code == 201
    place = f"/callbacks/{created.json()['id']}"
    shown = (await asked(export, "GET", place)).json()
    assert "secret" not in shown
    assert (shown["state"], shown["state_zh"], shown["waiting"]) == ("active", "启用", 0)
    assert (await asked(export, "GET", place, subject="other")).status_code == 404
    assert (await asked(export, "GET", "/callbacks", subject="other")).json() == []
    assert (await asked(export, "DELETE", place, scopes=["export:read"])).status_code == 403
    assert (await asked(export, "POST", "/callbacks", NEW, scopes=["export:read"])).status_code == 403
    limited_admin = {"subject": "li", "kind": "user", "scopes": ["export:*"], "sites": ["s-1"]}
    assert (await asked(export, "GET", place, **limited_admin)).status_code == 404
    admin = {"subject": "wang", "kind": "user", "scopes": ["export:*"]}
    assert (await asked(export, "POST", f"{place}/pause", **admin)).json()["state"] == "paused"
    for_other = (await asked(export, "POST", "/callbacks", {**NEW, "owner": "key:other"}, **admin)).json()
    assert for_other["owner"] == "key:other"
    # Nobody makes one in another's name without the right to.
    mine = (await asked(export, "POST", "/callbacks", {**NEW, "owner": "key:other"})).json()
    assert mine["owner"] == "key:app"
    changed = await asked(export, "PUT", place, {**NEW, "types": ["alarm.begin"], "sites": ["region:r-1"]})
    assert (changed.json()["types"], changed.json()["sites"]) == (["alarm.begin"], ["region:r-1"])
    rotated = (await asked(export, "POST", f"{place}/rotate-secret", {})).json()
    assert rotated["secret"] != created.json()["secret"]
    assert (await asked(export, "DELETE", place)).status_code == 204
    assert (await asked(export, "GET", place)).status_code == 404


async def test_the_log_pages_and_a_wrong_span_is_refused(export: Export, kit: Kit) -> None:
    async with receiver() as app:
        created = (await asked(export, "POST", "/callbacks", {**NEW, "url": app.url})).json()
        place = f"/callbacks/{created['id']}"
        await export.publish(*(control(CommandState.SUCCEEDED, load=f"l-{n}") for n in range(5)))
        await app.took(5)

        async def written() -> bool:
            found = (await asked(export, "GET", f"{place}/deliveries?state=delivered")).json()["items"]
            return len(found) == 5

        await kit.until(written)
        seen: list[str] = []
        cursor = ""
        for _ in range(3):
            page = (await asked(export, "GET", f"{place}/deliveries?limit=2{cursor}")).json()
            seen += [one["resource"] for one in page["items"]]
            cursor = f"&cursor={(page['next_cursor'] or '').replace('+', '%2B')}"
        assert sorted(seen) == [f"load/l-{n}" for n in range(5)]
        assert page["next_cursor"] is None
        one = (await asked(export, "GET", f"{place}/deliveries?resource=load/l-3")).json()["items"]
        assert [(each["resource"], each["log"][0]["status"]) for each in one] == [("load/l-3", 200)]
        span: dict[str, Any] = {"from": "2026-03-08T00:00:00Z", "to": "2026-03-07T00:00:00Z"}
        assert (await asked(export, "POST", f"{place}/replay", span)).status_code == 400
        span = {"from": "2026-03-08T00:00:00Z", "states": ["given_up", "delivered"]}
        assert (await asked(export, "POST", f"{place}/replay", span)).json() == {"queued": 5}
        await app.took(10)


async def test_the_openapi_document_shows_what_a_receiver_is_sent(export: Export) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{export.api_port}", trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
    shown = document["webhooks"]["command.result"]["post"]
    (media,) = shown["requestBody"]["content"].items()
    assert media[0] == "application/cloudevents+json"
    (example,) = media[1]["schema"]["examples"]
    assert example["type"] == "wattring.command.result.v1"
    assert document["webhooks"].keys() == {each.value for each in NewsType}
    batch = document["webhooks"]["readings.batch"]["post"]["requestBody"]["content"]["application/cloudevents+json"]
    (example,) = batch["schema"]["examples"]
    assert ReadingsCallback.model_validate(example).data.count == 1
