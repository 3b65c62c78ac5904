"""The direct door and an ON that was taken up already: it is not done twice, and not waited for for ever."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from libs.common.contracts.control import Evidence, Stage
from libs.common.health import Health
from libs.common.serving import Platform
from libs.common.settings import CommonSettings
from libs.common.testing.clock import FakeClock
from libs.common.tokens import KeyRing
from libs.common.web import create_app
from services.ingest.api.direct import IN_LINE_S, build_router
from services.ingest.usecases.switching import Switched


class FakeOrders:
    """Closes whatever is asked for."""

    def __init__(self, waits_s: float | None) -> None:
        self.waits: dict[tuple[str, int | None], float | None] = {("brk-1", None): waits_s}
        self.closed: list[tuple[str, int | None]] = []

    def waits_s(self, device_id: str, channel: int | None) -> float | None:
        return self.waits.get((device_id, channel))

    async def close_now(self, *, device_id: str, channel: int | None, **_: object) -> Switched:
        self.closed.append((device_id, channel))
        return Switched(Stage.VERIFIED, Evidence(feedback_value=1.0))


@pytest.mark.parametrize(
    ("waits_s", "channel", "is_joined"),
    [(None, None, False), (0.0, None, True), (IN_LINE_S - 1, None, True), (IN_LINE_S, None, False), (1.0, 2, False)],
    ids=["nothing waits", "taken up now", "in line", "for too long", "another switch"],
)
async def test_an_on_in_line_is_told_of_and_not_done_twice(
    tmp_path: Path, waits_s: float | None, channel: int | None, is_joined: bool
) -> None:
    clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    KeyRing.create(tmp_path)
    keys = KeyRing.open(tmp_path, clock)
    health = Health(clock)
    health.always_open = ("/direct/",)
    platform = Platform(CommonSettings(data_dir=tmp_path), clock, cast(Any, None), keys)
    app = create_app("ingest", platform, health, title="Ingest")
    orders = FakeOrders(waits_s)
    nothing: Any = SimpleNamespace(device=lambda device_id, when: None)
    router = build_router(
        orders=cast(Any, orders), book=nothing, seen=nothing, topology=nothing, lines=nothing, readings=nothing,
        clock=clock,
    )  # fmt: skip
    app.include_router(router)
    token = keys.sign_token("control", audience="ingest", scopes=["ingest:wake"])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://ingest") as client:
        answer = await client.post(
            "/direct/v1/on", json={"device_id": "brk-1", "channel": channel},
            headers={"authorization": f"Bearer {token}"},
        )  # fmt: skip
    found = answer.json()
    assert answer.status_code == 200
    if is_joined:
        assert (found["stage"], found["verified"], found["reason"]) == ("accepted", False, "in_line")
        assert (found["in_line_s"], orders.closed) == (waits_s, [])
    else:
        assert (found["stage"], found["verified"], found["in_line_s"]) == ("verified", True, None)
        assert orders.closed == [("brk-1", channel)]
