"""One run: set the stage, let everybody talk, let everything go wrong, let it come to rest, and compare."""

import asyncio
import base64
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from libs.common.clock import SystemClock
from libs.suite.soak.journal import Answer, Journal
from libs.suite.soak.judge import Discrepancy, Disturbance, Duty, Evidence, Fault, Held, Hour, Record, Verdict, judge
from libs.suite.soak.plan import Deed, Step, draw
from libs.suite.soak.senders import (
    ARCHIVE_AGE,
    BROKER,
    BROKER_ADDRESS,
    BROKER_LINE,
    FILES,
    PLATFORM,
    PLATFORM_ADDRESS,
    PLATFORM_LINE,
    PLATFORM_PRODUCT,
    PLATFORM_TENANT,
    PUSHED,
    BrokerSender,
    FileSender,
    PlatformSender,
    Pusher,
    Sender,
)
from libs.suite.soak.served import SERVED, TCP, ServedField
from libs.suite.soak.stage import TOKEN, Say, Stage

PERIOD_S = 1.0
"""Of every device. [s]"""
SITE = {"id": "soak-site", "code": "SOAK", "name": "Soak", "kind": "base_station"}
WARM_UP_S = 240.0
SETTLE_S = 120.0
"""For senders to get rid of what they have, and then for ingest to store it. [s]"""
QUIET_S = 10.0
"""When nothing new has come into the history for so long, nothing more comes. [s]"""
PROGRESS_S = 15.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Soak:
    """What is to be run."""

    seed: int
    length_s: float
    deeds: tuple[Deed, ...] = tuple(Deed)
    mqtt: bool = True
    """Whether there is a mosquitto to talk through."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed."""

    soak: Soak
    verdict: Verdict
    done: Sequence[str]
    """What was done to it, with times."""
    took_s: float
    settled_s: float
    """From the last deed until everything had come to rest. [s]"""
    evidence: Evidence


class SoakFailed(RuntimeError):
    """The run shows nothing, because it could not be made."""


async def soak(what: Soak, folder: Path, say: Say) -> Outcome:
    """Run it and return what it showed.

    Raises:
        SoakFailed: Something does not talk even before anything goes wrong.
        PlatformError: Broker or database cannot be started.
    """
    began = time.monotonic()
    steps = draw(what.seed, what.length_s, [one for one in what.deeds if what.mqtt or one is not Deed.STOP_MQTT])
    journal = Journal()
    async with AsyncExitStack() as stack:
        stage = Stage(folder, say, mqtt=what.mqtt)
        say("starting Kafka, PostgreSQL and ingest")
        stack.push_async_callback(asyncio.to_thread, stage.stop)  # also when this is ended while it starts
        await asyncio.to_thread(stage.start)
        served = ServedField(journal, SystemClock(), ("127.0.0.1", stage.terminal_port))
        await served.start()
        stack.push_async_callback(served.stop)
        since = datetime.now(UTC)
        await asyncio.to_thread(_write_registry, stage, served, since)
        senders = _senders(what, journal, stage)
        for sender in senders:
            stack.push_async_callback(sender.close)
        making = [asyncio.create_task(sender.produce(), name="soak makes") for sender in senders]
        around = [
            *(asyncio.create_task(sender.send(), name="soak sends") for sender in senders),
            asyncio.create_task(stage.supervise(), name="soak supervises"),
            asyncio.create_task(_tell_progress(journal, say), name="soak tells"),
        ]
        stack.push_async_callback(_end, *making, *around)
        devices = _devices(what)
        await _warm_up(stage, served, devices, senders)
        stage.disturbances.append(Disturbance(since, datetime.now(UTC), frozenset(SERVED)))
        say(f"everybody is heard; {len(steps)} disturbances within {what.length_s:.0f} s")
        await _let_it_happen(steps, stage, served)
        say("nothing is disturbed any more; coming to rest")
        rest = time.monotonic()
        await stage.ready()
        await _end(*making)
        late = [await _finished(sender) for sender in senders]
        stopped = datetime.now(UTC)
        await served.stop()
        stage.disturbances.append(Disturbance(stopped, datetime.now(UTC), frozenset(SERVED)))
        left = await stage.drained(SETTLE_S)
        evidence, verdict = await _compare(stage, journal, since, devices)
        settled_s = time.monotonic() - rest
        verdict.discrepancies += [one for one in late if one is not None]
        if left is not None:
            verdict.add("ingest", datetime.now(UTC), Fault.NOT_DRAINED, left)
        for ending in stage.ended_by_themselves():
            verdict.add("ingest", stopped, Fault.ENDED, ending)
        return Outcome(what, verdict, stage.done, time.monotonic() - began, settled_s, evidence)


def _devices(what: Soak) -> list[str]:
    return [*SERVED, *PUSHED, PLATFORM, FILES, *([BROKER] if what.mqtt else [])]


def _senders(what: Soak, journal: Journal, stage: Stage) -> list[Sender]:
    def chance(name: str) -> random.Random:
        return random.Random(f"{what.seed} {name}")  # noqa: S311 - to be repeated, not to be secret

    senders: list[Sender] = [
        Pusher(journal, chance("push"), PERIOD_S, stage),
        PlatformSender(journal, chance("aep"), PERIOD_S, stage, TOKEN),
        FileSender(journal, chance("csv"), stage),
    ]
    if stage.mosquitto is not None:
        senders.append(BrokerSender(journal, chance("mqtt"), PERIOD_S, ("127.0.0.1", stage.mosquitto.port)))
    return senders


def _write_registry(stage: Stage, served: ServedField, since: datetime) -> None:
    lines, devices = served.registry(PERIOD_S)
    lines.append({
        "id": PLATFORM_LINE, "kind": "aep", "endpoint": "http://127.0.0.1:9", "credentials_ref": "soak",
        "settings": {"product": PLATFORM_PRODUCT, "tenant": PLATFORM_TENANT},
    })  # fmt: skip
    devices += [{"id": name} for name in (*PUSHED, FILES)]
    devices.append({
        "id": PLATFORM, "line": PLATFORM_LINE, "profile": "aep_breaker_example", "address": PLATFORM_ADDRESS,
        "kind": "breaker",
    })  # fmt: skip
    if stage.mosquitto is not None:
        endpoint = f"127.0.0.1:{stage.mosquitto.port}"
        lines.append({"id": BROKER_LINE, "kind": "mqtt", "endpoint": endpoint})
        devices.append({"id": BROKER, "line": BROKER_LINE, "profile": "example_mqtt_meter", "address": BROKER_ADDRESS})
    begin = {"valid_from": (since - 2 * ARCHIVE_AGE).isoformat()}
    now = {"valid_from": since.isoformat()}
    document = {
        "schema": "registry/1",
        "sites": [{**SITE, **begin}],
        "lines": [{"name": line["id"], **begin, **line} for line in lines],
        "devices": [
            {"name": one["id"], "kind": "meter_1p", "site": SITE["id"], "period_s": PERIOD_S,
             **(begin if one["id"] == FILES else now), **one}
            for one in devices
        ],
    }  # fmt: skip
    stage.call("POST", "/api/v1/imports?kind=registry&file=soak.yaml", content=orjson.dumps(document))  # JSON is YAML


async def _warm_up(stage: Stage, served: ServedField, devices: Sequence[str], senders: Sequence[Sender]) -> None:
    """Wait until a report of every device is in the history.

    Raises:
        SoakFailed: One is not.
    """
    end = time.monotonic() + WARM_UP_S
    while True:
        latest = await asyncio.to_thread(stage.pages, "/api/v1/readings/latest")
        heard = {one["device_id"] for one in latest}
        for sender in senders:
            if isinstance(sender, BrokerSender) and BROKER in heard:
                sender.heard = True
        if TCP in heard:
            served.dial()
        silent = set(devices) - heard
        if not silent:
            return
        if time.monotonic() > end:
            raise SoakFailed(f"nothing is heard of {', '.join(sorted(silent))}\n{stage.cluster.last_words('ingest')}")
        await asyncio.sleep(LOOK_S)


async def _let_it_happen(steps: Sequence[Step], stage: Stage, served: ServedField) -> None:
    """Do everything at its time; a victim that is still away when it is to be hit again is hit when it is back."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for step in steps:
            await asyncio.sleep(max(began + step.at_s - time.monotonic(), 0.0))
            group.create_task(stage.do(step, served), name=f"soak: {step.deed}")


async def _finished(sender: Sender) -> Discrepancy | None:
    if await sender.finish(SETTLE_S):
        return None
    what = "the sender did not get rid of its reports"
    return Discrepancy(type(sender).__name__, datetime.now(UTC), Fault.NOT_DRAINED, what)


async def _compare(stage: Stage, journal: Journal, since: datetime, devices: Sequence[str]) -> tuple[Evidence, Verdict]:
    """Compare until nothing is missing, or nothing more comes."""
    seen, quiet_since = -1, time.monotonic()
    while True:
        evidence = await asyncio.to_thread(_evidence, stage, journal, since, devices)
        verdict = judge(evidence)
        count = len(evidence.held) + len(evidence.records)
        if count != seen:
            seen, quiet_since = count, time.monotonic()
        elif not verdict.discrepancies or time.monotonic() - quiet_since > QUIET_S:
            return evidence, verdict
        await asyncio.sleep(LOOK_S)


def _evidence(stage: Stage, journal: Journal, since: datetime, devices: Sequence[str]) -> Evidence:
    start = (since - 2 * ARCHIVE_AGE).isoformat()
    held = [
        Held(
            device_id,
            datetime.fromisoformat(one["source_time"]),
            datetime.fromisoformat(one["received_at"]),
            one["points"],
            one["moved"],
        )
        for device_id in devices
        for one in stage.pages(
            "/api/v1/readings", device=device_id, **{"from": start, "to": datetime.now(UTC).isoformat()}, limit=1000
        )
    ]
    records = [
        Record(
            datetime.fromisoformat(one["received_at"]),
            one["reason"],
            one["source"],
            base64.b64decode(one["raw_base64"]).decode(errors="replace"),
        )
        for one in stage.pages("/api/v1/rejected", limit=1000)
    ]
    until = datetime.now(UTC)
    hours = [
        Hour(one["device_id"], datetime.fromisoformat(one["hour"]), one["expected"], one["received"])
        for one in stage.pages("/api/v1/completeness", **{"from": since.isoformat(), "to": until.isoformat()})
        if one["device_id"] != FILES
    ]
    return Evidence(
        entries=list(journal.entries.values()),
        wrongs=list(journal.wrongs.values()),
        disturbances=list(stage.disturbances),
        # An archive owes nothing now, and a device without a profile owes nothing at all.
        duties=[Duty(name, PERIOD_S, since) for name in devices if name not in (FILES, *PUSHED)],
        held=held,
        records=records,
        hours=hours,
        until=until,
    )


async def _tell_progress(journal: Journal, say: Say) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        accepted = sum(entry.answer is Answer.ACCEPTED for entry in journal.entries.values())
        wrong = sum(one.refused for one in journal.wrongs.values())
        say(f"{len(journal.entries)} reports said, {accepted} of them accepted or answered; {wrong} refused")


async def _end(*tasks: "asyncio.Task[Any]") -> None:
    """End tasks; one that had failed before tells why."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        await asyncio.wait([task])
        if not task.cancelled() and (exc := task.exception()) is not None:
            raise exc
