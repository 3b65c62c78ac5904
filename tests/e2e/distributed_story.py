"""The demonstration's story told by processes of their own, with one of them killed; what must hold afterwards."""

import asyncio
import dataclasses
import os
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import orjson
import yaml

from libs.common.bus import topics
from libs.common.bus.envelope import event_id, event_type
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.port import Received, StartAt
from libs.common.clock import SystemClock
from libs.common.contracts.telemetry import HEARTBEAT_TYPE
from libs.common.errors import Unavailable
from libs.common.settings import SERVICES, BusSettings
from libs.suite.cluster import Cluster
from libs.suite.demo import RULE, Seeder
from libs.suite.demo_report import Step, fetch, story
from libs.suite.words import Words

ENGLISH = Words(chinese=False)
SEED_VARIABLE = "WATTRING_TEST_KILL_SEED"
KILL_VARIABLE = "WATTRING_TEST_KILL"
"""``victim`` or ``victim@seconds after the seeding``: what is not drawn."""
METER = "meter-tianhe-feed"
"""Whose voltage sags."""
VICTIMS = (*SERVICES, "watchdog")
REVIVE_AFTER_S = (1.0, 2.0)
"""An orchestrator starts a process again after a time between these. [s]"""
SAG_AT_S = 3.0
"""From the seeding to the sag. [s]"""
SAG_AT_LEAST_S = 8.0
"""The sag lasts until its alarm is with the centre, and this long."""
READY_S = 180.0
GIVE_UP_S = 300.0
"""A story that is not complete by then has failed: far more than any delay that could be right."""
CATCH_UP_S = 60.0
PAUSE_S = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Kill:
    """One process ends as by ``kill -9``, and is started again."""

    victim: str
    at_s: float
    """From the end of the seeding. [s]"""
    back_after_s: float


@dataclasses.dataclass(slots=True)
class Outage:
    """When the victim was away."""

    victim: str
    began: datetime
    ready_again: datetime | None = None


def say(line: str) -> None:
    """Print a line; a test that fails shows what was printed."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def drawn(test: str, victims: Sequence[str], between_s: tuple[float, float]) -> Kill:
    """Return a kill that the seed decides, or the environment; print how to repeat it."""
    seed = os.environ.get(SEED_VARIABLE) or str(random.SystemRandom().randrange(10**9))
    draw = random.Random(f"{test} {seed}")
    kill = Kill(draw.choice(victims), round(draw.uniform(*between_s), 2), round(draw.uniform(*REVIVE_AFTER_S), 2))
    victim, _, at_s = os.environ.get(KILL_VARIABLE, "").partition("@")
    if victim:
        assert victim in VICTIMS, f"{KILL_VARIABLE}: expected one of {', '.join(VICTIMS)}, found {victim}"
        kill = dataclasses.replace(kill, victim=victim, at_s=float(at_s) if at_s else kill.at_s)
    say(f"{kill}; again with {KILL_VARIABLE}={kill.victim}@{kill.at_s:g} {SEED_VARIABLE}={seed}")
    return kill


@dataclasses.dataclass
class SimulatedField:
    """The simulated field as the process ``wattring-fieldsim demo``; its sag is ours to order."""

    folder: Path
    unit_url: str
    description: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        self.folder.mkdir()
        document = yaml.safe_load(files("libs.fieldsim").joinpath("demo_site.yaml").read_text(encoding="utf-8"))
        document["story"] = []
        place = self.folder / "field.yaml"
        place.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "libs.fieldsim.cli", "demo", "--data-dir", str(self.folder),
                 "--field", str(place), "--unit-url", self.unit_url],
                env={name: value for name, value in os.environ.items() if not name.startswith(("WATTRING_", "PORT"))},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        ready = self.folder / "field.json"
        end = time.monotonic() + READY_S
        while not ready.exists():
            assert self._process.poll() is None, f"the field ended:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"the field is not up:\n{self.log.read_text()}"
            time.sleep(PAUSE_S)
        self.description = orjson.loads(ready.read_bytes())
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=20)

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "field.log"

    def last_words(self) -> str:
        """Return the end of its log, without the description that it prints first."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([line for line in lines if line.startswith('{"')][-25:])

    @property
    def journal(self) -> Path:
        """The centre's journal."""
        return Path(self.description["sc_journal_file"])

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API."""
        answer = httpx.request(
            method, f"{self.description['control_url']}{path}", json=body, timeout=30.0, trust_env=False
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None


@dataclasses.dataclass
class Telling:
    """One run of the story."""

    cluster: Cluster
    field: SimulatedField
    off_for_s: int
    outage: Outage | None = None
    steps: list[Step] = dataclasses.field(default_factory=list)

    def tell(self, kill: Kill | None = None) -> None:
        """Seed, let it happen, and return when every step of it has; blocks."""
        with self.cluster.api() as api:
            Seeder(api, self.field.description, ENGLISH, say, off_for_s=self.off_for_s).run()
            self._happen(api, kill)
        if self.outage is not None:
            self.cluster.wait_ready(self.outage.victim, timeout_s=READY_S)
            self.outage.ready_again = datetime.now(UTC)

    def _happen(self, api: Any, kill: Kill | None) -> None:
        start = time.monotonic()
        sag: int | None = None
        while True:
            now_s = time.monotonic() - start
            if kill is not None and self.outage is None and now_s >= kill.at_s:
                self.outage = Outage(kill.victim, datetime.now(UTC))
                self.cluster.kill(kill.victim)
                say(f"{datetime.now(UTC):%H:%M:%S.%f} killed {kill.victim}, {now_s:.2f} s after the seeding")
            self.cluster.revive(1.0 if kill is None else kill.back_after_s)
            if sag is None and now_s >= SAG_AT_S:
                sag = self.field.ask("POST", f"/devices/{METER}/faults", {"kind": "sag", "phase": "a", "to_v": 150})[
                    "fault_id"
                ]
            try:
                self.steps = story(fetch(api, self.field.journal), ENGLISH)
            except Unavailable as exc:
                say(f"{datetime.now(UTC):%H:%M:%S} {exc.message}")
                self.steps = []
            done = {step.name for step in self.steps if step.state != "missing"}
            if sag and now_s >= SAG_AT_S + SAG_AT_LEAST_S and "begin acknowledged by the SC" in done:
                self.field.ask("DELETE", f"/faults/{sag}")
                sag = 0
            if self.steps and len(done) == len(self.steps) and (kill is None or self.outage is not None):
                return
            missing = [step for step in self.steps if step.state == "missing"]
            assert now_s < GIVE_UP_S, f"after {now_s:.0f} s still missing: {missing or 'everything'}"
            time.sleep(PAUSE_S)

    def report(self) -> str:
        """Return the steps with their delays, a line each."""
        lines = [f"{step.at:%H:%M:%S.%f} " if step.at else "-" * 15 + " " for step in self.steps]
        return "\n".join(
            f"{at[:12]} {step.state:8}{step.name}" + ("" if step.seen_s is None else f" {step.seen_s:.2f} s")
            for at, step in zip(lines, self.steps, strict=True)
        )

    @contextmanager
    def told_on_failure(self) -> Iterator[None]:
        """Print the story so far and the last words of everybody when what follows fails."""
        try:
            yield
        except BaseException:
            say(self.report())
            for name in self.cluster.names:
                say(f"--- {name}\n{self.cluster.last_words(name)}")
            say(f"--- field\n{self.field.last_words()}")
            raise


# What must hold afterwards, whoever was killed.


def switched_off_and_on_once(field: SimulatedField) -> None:
    """The breaker of the plan's load opened once and closed once, and the load is awake."""
    moves = [one for one in field.ask("GET", "/events") if one["what"] == "moved"]
    assert [(one["device_id"], one["closed"]) for one in moves] == [
        (moves[0]["device_id"], False), (moves[0]["device_id"], True),
    ], moves  # fmt: skip
    assert field.ask("GET", f"/devices/{moves[0]['device_id']}")["closed"] is True
    assert [one for one in field.ask("GET", "/loads") if one["share"] == 0] == []


def nothing_against_us(field: SimulatedField, outage: Outage | None) -> None:
    """The centre has nothing to complain of but what a crash cannot help."""
    entries = [orjson.loads(line) for line in field.journal.read_bytes().splitlines()]
    against = [(entry, finding) for entry in entries for finding in entry["findings"]]
    assert [one for one in against if not _excused(*one, entries, outage)] == []
    events = [
        (alarm["unit_id"], alarm["serial"], alarm["flag"])
        for entry in entries
        if entry["name"] == "SEND_ALARM" and entry["result"] == "1" and not entry["findings"]
        for alarm in entry["alarms"]
    ]
    assert [one for one, times in Counter(events).items() if times > 1] == []
    for unit, serial, flag in events:
        if flag == "END":
            assert events.index((unit, serial, "BEGIN")) < events.index((unit, serial, "END"))
    assert {(unit, serial) for unit, serial, _ in events} == {
        (unit, serial) for unit, serial, flag in events if flag == "END"
    }, "an alarm that the centre was told of has not ended"


def _excused(
    entry: Mapping[str, Any], finding: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], outage: Outage | None
) -> bool:
    """Return whether a killed export could not help this.

    While it is away it answers no poll. And an acknowledgement that was on its way when it died is lost, so the event
    is sent again.
    """
    if outage is None or outage.victim != "export":
        return False
    at = datetime.fromisoformat(entry["at"])
    if finding["rule"] == "transport" and entry["direction"] == "out":
        return outage.ready_again is None or outage.began - timedelta(seconds=10) < at < outage.ready_again
    if finding["rule"] != "duplicate" or at < outage.began:
        return False
    taken = [datetime.fromisoformat(one["at"]) for one in entries if _tells(one, finding["serial"], entry)]
    return min(taken) > outage.began - timedelta(seconds=2)


def _tells(entry: Mapping[str, Any], serial: str, again: Mapping[str, Any]) -> bool:
    flags = {alarm["flag"] for alarm in again["alarms"] if alarm["serial"] == serial}
    return entry["name"] == "SEND_ALARM" and any(
        alarm["serial"] == serial and alarm["flag"] in flags for alarm in entry["alarms"]
    )


async def everything_once(cluster: Cluster) -> None:
    """What was published is stored once, every alarm began and ended once, nothing was put aside."""
    conn = await asyncpg.connect(cluster.database_url, timeout=30)
    try:
        earlier = reports(await published(cluster))
        end = time.monotonic() + CATCH_UP_S
        while missing := earlier - (stored := await history(conn)):
            assert time.monotonic() < end, f"accepted and not in history: {sorted(missing)[:20]} of {len(missing)}"
            await asyncio.sleep(PAUSE_S)
        later = await published(cluster)
        assert sorted(stored - reports(later)) == [], "in history and never published: stored twice"
        assert len(reports(later)) > 100
        _alarms_began_and_ended_once(later[topics.ALARM_EVENTS])
        assert later[topics.REJECTED] == []
        for service in SERVICES:
            put_aside = await conn.fetch(f"select grp, topic, reason from {service}.dead_letters")
            assert put_aside == [], service
            assert await conn.fetch(f"select * from {service}.consumer_losses") == [], service
    finally:
        await conn.close(timeout=10)


def reports(found: Mapping[str, Sequence[Received]]) -> set[tuple[str, datetime]]:
    """Return who reported when, by messages; a message that was published twice counts once, two may not differ."""
    messages: dict[tuple[str, datetime], dict[str, bytes]] = defaultdict(dict)
    for topic in (topics.READINGS, topics.BACKFILL):
        for received in found[topic]:
            value = orjson.loads(received.value or b"")
            key = (value["device_id"], datetime.fromisoformat(value["source_time"]))
            assert messages[key].setdefault(event_id(received) or "", received.value or b"") == received.value
    assert {key: ids for key, ids in messages.items() if len(ids) > 1} == {}
    return set(messages)


async def history(conn: asyncpg.Connection) -> set[tuple[str, datetime]]:
    """Return who reported when, by ingest's history; a time that was moved to make room for a double shows."""
    rows = await conn.fetch(
        "select d.device_id, r.source_time from ingest.readings r join ingest.devices d on d.no = r.device_no"
    )
    return {(row["device_id"], row["source_time"]) for row in rows}


async def published(cluster: Cluster) -> dict[str, list[Received]]:
    """Return all messages on the topics that are looked at, in order per key."""
    bus = KafkaBus(BusSettings(bootstrap_servers=cluster.kafka, site_partitions=8), SystemClock())
    wanted = (topics.READINGS, topics.BACKFILL, topics.REJECTED, topics.ALARM_EVENTS)
    found: dict[str, list[Received]] = {name: [] for name in wanted}
    await bus.start()
    try:
        async with bus.tail(wanted, StartAt(beginning=True)) as reader:
            ends = await reader.end_offsets()
            while any(reader.positions().get(place, 0) < end for place, end in ends.items()):
                for received in await reader.fetch(max_messages=5000, timeout_s=1.0):
                    if event_type(received) != HEARTBEAT_TYPE:
                        found[received.topic].append(received)
    finally:
        await bus.stop()
    return found


def _alarms_began_and_ended_once(events: Sequence[Received]) -> None:
    """Every alarm has one begin, before its one end; of the story's signal there is one alarm."""
    lives: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for received in events:
        event = orjson.loads(received.value or b"")
        known = lives[event["alarm_id"]].setdefault(event["sequence"], event)
        assert known == event, "one step of an alarm was told in two ways"
    for life in lives.values():
        phases = [life[sequence]["phase"] for sequence in sorted(life)]
        assert sorted(life) == list(range(1, len(life) + 1)), life
        assert phases[0] == "begin", life
        assert phases.count("begin") == 1, life
        assert phases[-1] == "end", life
        assert phases.count("end") == 1, life
    told = [(life[1]["device_id"], life[1]["point"]) for life in lives.values() if life[1]["signal"] == RULE]
    assert told == [(METER, "voltage_a")]


async def own_users(database_url: str, suffix: str) -> dict[str, str]:
    """Make a user per service who may do what the service's role may; return their URLs."""
    parts = urlsplit(database_url)
    urls: dict[str, str] = {}
    conn = await asyncpg.connect(database_url, timeout=30)
    try:
        for service in SERVICES:
            user = f"{service}_{suffix}"
            await conn.execute(f"create role {user} login password 'secret' in role wattring_{service}")
            host = parts.netloc.rpartition("@")[2]
            urls[service] = urlunsplit((parts.scheme, f"{user}:secret@{host}", parts.path, parts.query, ""))
    finally:
        await conn.close(timeout=10)
    return urls
