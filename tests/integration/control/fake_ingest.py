"""A stand-in for ingest over real sockets and the real bus: breakers that do what signed commands say."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
from fastapi import Body, Depends

from libs.common.bus import topics
from libs.common.bus.envelope import message
from libs.common.bus.port import Received, StartAt
from libs.common.bus.tail import Tail
from libs.common.contracts.control import Command, CommandAction, Evidence, Result, Stage
from libs.common.contracts.registry import (
    Device,
    DeviceRecord,
    Line,
    LineRecord,
    Load,
    LoadRecord,
    Region,
    RegionRecord,
    Site,
    SiteRecord,
)
from libs.common.runtime import Beat, Health, Platform, Service, Worker
from libs.common.signing import signed_bytes
from libs.common.tokens import Principal, canonical
from libs.common.web import create_app, require

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeBreaker:
    closed: bool = True
    local_lock: bool = False
    trip_reason: int = 0
    answers: bool = True
    switched: list[str] = field(default_factory=list)


@dataclass
class FakeField:
    """The breakers by load id."""

    breakers: dict[str, FakeBreaker] = field(default_factory=dict)
    deaf: bool = False
    """Whether commands of the bus are ignored."""
    door_requests: list[dict[str, Any]] = field(default_factory=list)
    refused_signatures: int = 0
    settings: dict[tuple[str, str], float] = field(default_factory=dict)
    """What was written into devices, by device and point."""


def records(load_ids: Sequence[str], never_off: Sequence[str] = ()) -> list[Any]:
    """Return a registry with one region, site and line, and a breaker for each load."""
    common = {"valid_from": START, "version": 1, "changed_by": "import:test"}
    found: list[Any] = [
        RegionRecord(kind="region", id="440100", state="active",
                     versions=(Region(id="440100", name="Guangzhou", code="440100", level="city", **common),)),
        SiteRecord(kind="site", id="site-1", state="active",
                   versions=(Site(id="site-1", name="Site", code="S1", kind="base_station", region="440100",
                                  **common),)),
        LineRecord(kind="line", id="line-1", state="active",
                   versions=(Line(id="line-1", name="Line", kind="tcp", endpoint="127.0.0.1:1", **common),)),
    ]  # fmt: skip
    for load_id in load_ids:
        device = Device(
            id=f"brk-{load_id}", name="Breaker", kind="breaker", site="site-1", line="line-1", address="1", **common
        )
        load = Load(
            id=load_id, name=load_id, kind="aau", site="site-1", sector="1", breaker={"device": device.id},
            coverage_layer=False, never_off=load_id in never_off, **common,
        )  # fmt: skip
        found.append(DeviceRecord(kind="device", id=device.id, state="active", versions=(device,)))
        found.append(LoadRecord(kind="load", id=load_id, state="active", versions=(load,)))
    for number in (1, 2):
        cooling = Device(
            id=f"ac-{number}", name="Air conditioner", kind="ac_unit", profile="gree_umatch_ac", site="site-1",
            line="line-1", address=str(number), tags=("hall",), **common,
        )  # fmt: skip
        found.append(DeviceRecord(kind="device", id=cooling.id, state="active", versions=(cooling,)))
    return found


def build_ingest(platform: Platform, breakers: FakeField) -> Service:
    """Return a service named ingest."""
    health = Health(platform.clock)
    app = create_app("ingest", platform, health, title="Fake ingest")
    wake = Annotated[Principal, Depends(require("ingest:wake"))]

    @app.get("/direct/v1/loads")
    async def loads(_: wake) -> list[dict[str, Any]]:
        return [
            {
                "load_id": load_id, "device_id": f"brk-{load_id}", "breaker_state": float(breaker.closed),
                "read_at": platform.clock.now(), "age_s": 0.0, "off_lease": None, "local_lock": breaker.local_lock,
                "trip_reason": breaker.trip_reason,
            }
            for load_id, breaker in breakers.breakers.items()
        ]  # fmt: skip

    @app.post("/direct/v1/on")
    async def on(body: Annotated[dict[str, Any], Body()], who: wake) -> dict[str, Any]:
        breakers.door_requests.append({**body, "issuer": who.subject})
        breaker = breakers.breakers[body["load_id"]]
        breaker.closed = True
        breaker.switched.append("door")
        return {"outcome": "verified", "breaker_state": 1}

    async def take(batch: Sequence[Received]) -> None:
        for received in batch:
            raw = orjson.loads(received.value or b"{}")
            command = Command.from_json(received.value or b"")
            signed = signed_bytes(canonical(Command.signed_part(raw)), command.proof)
            if not platform.keys.verify_bytes("control", signed, command.signature):
                breakers.refused_signatures += 1
                continue
            if breakers.deaf:
                continue
            if command.load_id is None:
                point, value = str(command.arguments["point"]), float(command.arguments["value"])
                breakers.settings[command.device_id, point] = value
                stages = (Stage.ACCEPTED, Stage.EXECUTED, Stage.VERIFIED)
                seen = Evidence(feedback_point=point, feedback_value=value)
                await platform.bus.publish([_said(command, stage, seen) for stage in stages], timeout_s=5)
                continue
            breaker = breakers.breakers[str(command.load_id)]
            if command.action is not CommandAction.READ_BACK:
                breaker.closed = command.action is CommandAction.CLOSE
                breaker.switched.append(command.command_id)
            if breaker.answers:
                stages = (Stage.ACCEPTED, Stage.EXECUTED, Stage.VERIFIED)
                await platform.bus.publish([_result(command, stage, breaker) for stage in stages], timeout_s=5)

    def _result(command: Command, stage: Stage, breaker: FakeBreaker) -> Any:
        return _said(command, stage, Evidence(feedback_point="breaker_state", feedback_value=float(breaker.closed)))

    def _said(command: Command, stage: Stage, seen: Evidence) -> Any:
        result = Result(
            command_id=command.command_id, site_id=command.site_id, stage=stage, epoch=1, at=platform.clock.now(),
            evidence=seen if stage is Stage.VERIFIED else Evidence(),
        )  # fmt: skip
        return message(topics.RESULTS, command.site_id, result, source="ingest", time=result.at)

    tail = Tail(bus=platform.bus, clock=platform.clock, topics=[topics.COMMANDS], start=StartAt(beginning=True),
                handle=take)  # fmt: skip

    async def run(beat: Beat) -> None:
        now = platform.clock.now()
        await platform.bus.publish(
            [message(topics.REGISTRY, record.id, record, source="ingest", time=now)
             for record in records(list(breakers.breakers), never_off=["hospital"])],
            timeout_s=10,
        )  # fmt: skip
        await tail.run(beat)

    return Service(name="ingest", app=app, health=health, workers=[Worker("commands", run)])


async def until(condition: Any, what: str, *, timeout_s: float = 30.0) -> Any:
    """Wait for something that real processes bring about."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)
    raise AssertionError(what)
