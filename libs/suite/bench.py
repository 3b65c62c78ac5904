"""``make bench``: what the suite costs and how fast it is on this machine, beside the figures of others.

Each benchmark is a function that returns measurements; ``BENCHMARKS`` lists them. The table is printed, the JSON goes
to ``bench-results/``. Figures depend on the machine, so nothing here is a test.

    python -m libs.suite.bench            all
    python -m libs.suite.bench start      some, by name
"""

import asyncio
import csv
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

RESULTS = Path("bench-results")
START_TIMEOUT_S = 180.0
RATE_LEAST = 0.99 * 30_000
"""30 points of 1,000 meters each second, less the one slot in a hundred that need not be kept. [points/s]"""
SETTLE_S = 20.0
"""At rest: the start's garbage is collected, pools have shrunk to what they keep. [s]"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure."""

    what: str
    value: float
    unit: str
    target: str
    """What it should be, in words; empty when nothing was promised."""
    met: bool | None = None
    """Whether the target is met; None without one."""
    note: str = ""


Benchmark = Callable[[], list[Measurement]]


def start() -> list[Measurement]:
    """Time from ``wattring up --demo`` to *ready*, first and second start, and memory at rest."""
    found: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="wattring-bench-") as folder:
        with _running(Path(folder)) as (process, ready_s):
            found.append(Measurement("first start to ready", ready_s, "s", "under 8 s", ready_s < 8))
            time.sleep(SETTLE_S)
            found += _memory(process.pid)
        with _running(Path(folder)) as (_, ready_s):
            found.append(Measurement("second start to ready", ready_s, "s", "under 8 s", ready_s < 8))
    return found


@contextmanager
def _running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """Run a suite with the simulated field on a folder; yield it and how long it took to be ready."""
    environ = {**os.environ, "WATTRING_DATA_DIR": str(folder), "PORT": "0", "LANG": "C.UTF-8"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "libs.suite", "up", "--demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - piped above
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready"):
                break
            if time.monotonic() - began > START_TIMEOUT_S:
                break
        else:
            raise RuntimeError("the suite does not start:\n" + "".join(said[-20:]))
        yield process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def _memory(supervisor: int) -> list[Measurement]:
    """Return the memory of a suite by process; shared pages are divided among their users (PSS)."""
    by_name: dict[str, float] = {}
    for pid in _descendants(supervisor):
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        match = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
        name = _process_name(arguments, pid == supervisor)
        by_name[name] = by_name.get(name, 0.0) + (int(match[1]) / 1024 if match else 0.0)
    field_mb = by_name.pop("simulated field", 0.0)
    total_mb = sum(by_name.values())
    parts = ", ".join(f"{name} {size:.0f}" for name, size in sorted(by_name.items(), key=lambda item: -item[1]))
    return [
        Measurement("memory of the embedded suite at rest", total_mb, "MB", "under 600 MB", total_mb < 600, parts),
        Measurement("memory of the simulated field beside it", field_mb, "MB", ""),
    ]


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                parent = int(
                    (place / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
                )
            except OSError:
                continue
            children.setdefault(parent, []).append(int(place.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, ())
    return found


def _process_name(arguments: Sequence[bytes], supervisor: bool) -> str:
    if supervisor:
        return "supervisor"
    line = b" ".join(arguments)
    names: Mapping[bytes, str] = {
        b"libs.suite.suite": "six services",
        b"services.control.watchdog": "watchdog",
        b"libs.suite.jobworker": "job worker",
        b"libs.fieldsim": "simulated field",
        b"postgres": "PostgreSQL",
    }
    return next((name for part, name in names.items() if part in line), "other")


def chain() -> list[Measurement]:
    """Points through encode, Kafka, decode, alarm and history, with broker and database on this machine."""
    from libs.suite.bench_pipeline import METERS_PER_SITE, SITES, measure

    points_per_s, took_s, points = asyncio.run(measure())
    note = f"{SITES * METERS_PER_SITE} meters of {points} points, {took_s:.1f} s until both groups had committed"
    return [
        Measurement(
            "accepted → Kafka → judged and stored", points_per_s, "points/s", "30,000", points_per_s >= 30_000, note
        )
    ]


def history() -> list[Measurement]:
    """What a point of the history costs on disk, hot and cold, and how fast reports are stored, moved and read."""
    from libs.suite.bench_history import METERS, POINTS, PROFILES, ROUNDS, measure

    found: list[Measurement] = []
    for profile in PROFILES:
        one = asyncio.run(measure(profile))
        note = f"{METERS} meters {profile}, {POINTS} points, {ROUNDS} reports each, the measured curves"
        found += [
            Measurement(
                "history: reports stored", one.points_per_s, "points/s", "300,000", one.points_per_s >= 300_000, note
            ),
            Measurement("history: a hot point with index", one.hot_bytes, "B", "under 8 B", one.hot_bytes < 8, note),
            Measurement("history: a cold point", one.cold_bytes, "B", "under 2 B", one.cold_bytes < 2, note),
            Measurement("history: moved to files and compared", one.moved_points_per_s, "points/s", "", None, note),
            Measurement("history: a meter's day by the hour, hot", one.hot_read_s * 1000, "ms", "", None, note),
            Measurement("history: a meter's day by the hour, cold", one.cold_read_s * 1000, "ms", "", None, note),
        ]
    return found


def attesting() -> list[Measurement]:
    """What the attestation log costs: appending, booking beside it, proofs, the operator's own check."""
    from libs.suite.bench_attesting import AT_ONCE, BACKLOG, measure

    one = asyncio.run(measure())
    note = f"{BACKLOG} intervals of 2,000 circuits"
    beside = f"{AT_ONCE} intervals a transaction"
    return [
        Measurement("attesting: 10,000 intervals appended", one.append_s, "s", "", None, note),
        Measurement("attesting: processor for the same", one.append_cpu_s, "s", "", None, note),
        Measurement("attesting: booking, the log idle", one.booked_ms, "ms", "", None, beside),
        Measurement("attesting: booking beside a backlog", one.booked_beside_ms, "ms", "", None, beside),
        Measurement("attesting: a proof made and judged", one.proof_ms, "ms", "", None, note),
        Measurement("attesting: 10,000 leaves held against the books", one.check_s, "s", "", None, note),
        Measurement("attesting: a leaf, besides its interval", one.leaf_bytes, "B", "", None, "with indexes and tiles"),
    ]


def carbon() -> list[Measurement]:
    """Reports over very many intervals beside DuckDB and pandas, and registers into intervals and emissions."""
    from libs.suite.bench_carbon import DAY_METERS, METERS, MONTH_DAYS, measure
    from libs.suite.bench_carbon_reports import DAY, YEAR
    from libs.suite.bench_carbon_reports import measure as report

    found: list[Measurement] = []
    for scale, limit_s in ((YEAR, 2.0), (DAY, 1.0)):
        compared = report(scale)
        ours = compared.ours
        what = f"{scale.circuits:,} meters x {scale.days} days of quarter hours"
        note = f"{scale.rows:,} rows; {ours.cpu_s:.2f} s processor; {ours.version}"
        found += [
            Measurement(
                f"carbon: report of {what}", ours.seconds, "s", f"under {limit_s:g}", ours.seconds < limit_s, note
            ),
            Measurement("  memory of its process", ours.peak_mb, "MB", "under 1,000", ours.peak_mb < 1000),
        ]
        for other in compared.others:
            note = f"{other.cpu_s:.2f} s processor; {other.peak_mb:,.0f} MB"
            found.append(Measurement(f"  the same in {other.version}", other.seconds, "s", "", None, note))
    one = asyncio.run(measure())
    note = f"{METERS} meters once a minute, PostgreSQL beside it"
    month = f"{MONTH_DAYS} days of quarter hours of one meter, committed"
    day = f"{DAY_METERS} meters x 1 day a minute apart, hour by hour; into PostgreSQL and out of it"
    return [
        *found,
        Measurement("carbon: reports read", one.parsed_per_s, "1/s", "", None, "one register each, one core"),
        Measurement(
            "carbon: registers corrected and aligned", one.corrected_per_s, "1/s", "", None, "the domain alone"
        ),
        Measurement("carbon: registers booked", one.booked_per_s, "1/s", "", None, note),
        Measurement(
            "carbon: registers booked, by carbon's own core",
            one.core_per_s,
            "1/s",
            "100,000",
            one.core_per_s >= 1e5,
            note,
        ),
        Measurement("carbon: registers read and booked, by its own core", one.whole_per_s, "1/s", "", None, note),
        Measurement("carbon: a late month", one.month_ms, "ms", "under 100 ms", one.month_ms < 100, month),
        Measurement("carbon: one late register", one.register_ms, "ms", "under 100 ms", one.register_ms < 100, month),
        Measurement("carbon: a month computed again", one.binding_ms, "ms", "", None, f"{month}, nothing to book"),
        Measurement("carbon: registers to hourly emissions", one.day_per_s, "1/s", "", None, f"MyEMS 169,000; {day}"),
        Measurement("carbon: the same, by carbon's own core", one.day_core_per_s, "1/s", "", None, day),
    ]


def acquisition() -> list[Measurement]:
    """A thousand Modbus TCP meters every second on one core: prompt, slow, some dead; pushes; normalisation."""
    from libs.suite.bench_ingest import METERS, PROFILE, WHOLE_PROFILE, normalise, pushing
    from libs.suite.bench_polling import Field, Polling, polling

    def rate(what: str, found: Polling, theirs: str) -> Measurement:
        note = (
            f"{found.core:.0%} of the core, lateness p50 {1000 * found.lateness_p50_s:.0f} ms, "
            f"p99 {1000 * found.lateness_p99_s:.0f} ms; MyEMS {theirs}"
        )
        return Measurement(what, found.points_per_s, "points/s", "30,000", found.points_per_s >= RATE_LEAST, note)

    prompt, dead = polling(PROFILE, Field.PROMPT), polling(PROFILE, Field.SOME_DEAD)
    slow, whole = polling(PROFILE, Field.SLOW), polling(WHOLE_PROFILE, Field.PROMPT)
    pushed, normalised = pushing(), normalise()
    late = dead.lateness_p99_s
    return [
        rate(f"Modbus TCP, {METERS} connections x 30 points once a second, ingest on one core", prompt, "4,600-5,300"),
        Measurement("  slots that were not kept", 100 * prompt.overruns, "%", "under 1 %", prompt.overruns < 0.01),
        Measurement(
            "  lateness of the others with one in five dead, p99", 1000 * late, "ms", "under 100 ms", late < 0.1,
            f"{dead.points_per_s:,.0f} points/s, {dead.overruns:.1%} of all slots not kept, the dead ones' included; "
            f"{Field.SOME_DEAD.value}",
        ),
        rate("  every device answers after 20 ms", slow, "49 a process"),
        Measurement(
            "  39 points in four requests", whole.points_per_s, "points/s", "", None,
            f"{whole.core:.0%} of the core, {whole.overruns:.1%} of the slots not kept",
        ),
        Measurement(
            "push in batches of 1,000 reports, ingest on one core", pushed, "points/s", "100,000", pushed >= 100_000
        ),
        Measurement("normalisation, one core", normalised, "points/s", "500,000", normalised >= 500_000),
    ]  # fmt: skip


def archive() -> list[Measurement]:
    """Years of history imported beside live traffic: rows a second, and how long live readings wait meanwhile."""
    from libs.suite.bench_archive import A_DAY, DAYS, DEVICES, POINTS, measure

    found = measure()
    years_h = 3 * 365 * A_DAY * DEVICES / found.rows_per_s / 3600
    note = (
        f"{DEVICES} meters, {DAYS} days of quarter hours, {len(POINTS)} points; 3 years at this rate: {years_h:.1f} h"
    )
    return [
        Measurement("archive → Kafka → history, beside live readings", found.rows_per_s, "rows/s", "", None, note),
        Measurement(
            "  slowest live reading meanwhile, from push to safe", 1000 * found.live_slowest_s, "ms", "", None,
            f"{found.live} live readings, all in the history and none late",
        ),
    ]  # fmt: skip


def alarming() -> list[Measurement]:
    """From the reading that decides to the alarm on the bus, under load; and a province that loses its power."""
    from libs.suite.bench_alarming import METERS, measure

    latency, outage = measure()
    p99_ms, kept = 1000 * latency.p99_s, min(outage.on_the_bus, outage.listed)
    told = 100 * outage.messages / outage.meters
    return [
        Measurement(
            "accepted → alarm.events, alarm on one core, p99", p99_ms, "ms", "under 500 ms at 100,000 points/s",
            p99_ms < 500 and latency.points_per_s >= 100_000,
            f"{latency.points_per_s:,.0f} points/s of {METERS:,} meters, {latency.begins:,} begins, p50 "
            f"{1000 * latency.p50_s:.0f} ms, worst {1000 * latency.worst_s:.0f} ms; no history beside it",
        ),
        Measurement(
            "province without power: begins that were told, stored and listed", kept, "alarms", f"{outage.meters:,}",
            kept == outage.meters,
            f"reported within {outage.published_within_s:.0f} s, all on the bus after {outage.settled_s:.0f} s",
        ),
        Measurement(
            "  messages to people", told, "% of the begins", "under 1 %", told < 1, f"{outage.messages} messages"
        ),
    ]  # fmt: skip


def terminals() -> list[Measurement]:
    """What ten thousand terminals that have dialled in take, each with a line, a task and a meter."""
    count = 10_000
    done = subprocess.run(
        [sys.executable, "-m", "libs.suite.bench_terminals", str(count)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    memory_mb, connected = found["with_tasks_mb"], found["terminals"]
    return [
        Measurement(
            f"memory of a process with {connected:,} terminals (DTU)", memory_mb, "MB", "under 300 MB with 10,000",
            memory_mb < 300 and connected == count,
            f"{found['before_mb']:.0f} MB before, {found['connected_mb']:.0f} MB connected without lines and meters; "
            f"{found['idle_cpu_percent']:.0f} % of a core with a heartbeat from each every 2 s",
        ),
    ]  # fmt: skip


def judging() -> list[Measurement]:
    """How fast one core decodes and judges reports by a hundred rules each, and what a million devices take."""

    def run(*arguments: str) -> dict[str, float]:
        command = [sys.executable, "-m", "services.alarm.bench", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured: dict[str, float] = json.loads(done.stdout)
        return measured

    speed, memory = run(), run("--memory")
    return [
        Measurement(
            "alarm: decoded and judged, one core", speed["points_per_s"], "points/s", "500,000",
            speed["points_per_s"] >= 500_000,
            f"five profiles of 20 to 60 points, 100 rules each, one report in a hundred with a violation; "
            f"{speed['decode_us']:.1f} µs a report to decode, {speed['judge_us']:.1f} to judge",
        ),
        Measurement(
            "alarm: memory of the process with a million devices", memory["process_mb"], "MB", "under 1,500 MB",
            memory["process_mb"] < 1500,
            f"{memory['rules']:.0f} rules each, {memory['episodes']:,.0f} not NORMAL; the state alone "
            f"{memory['state_mb']:.0f} MB; all devices looked over for silence in {memory['scan_ms']:.1f} ms",
        ),
    ]  # fmt: skip


def statistics() -> list[Measurement]:
    """How long the statistics of a million alarms take, of a week and of a year."""
    from libs.suite.bench_alarms import ALARMS, measure

    took = asyncio.run(measure())
    found = []
    for days in sorted({one.range_days for one in took}):
        slowest = max((one for one in took if one.range_days == days), key=lambda one: one.seconds)
        found.append(
            Measurement(
                f"alarm: slowest statistic of {days} days", slowest.seconds, "s", "", None,
                f"{slowest.question}; {ALARMS:,} alarms within a year",
            )
        )  # fmt: skip
    return found


def control() -> list[Measurement]:
    """How many commands a second control takes through their whole life."""
    count = 10_000
    done = subprocess.run(
        [sys.executable, "-m", "libs.suite.bench_control", str(count)], capture_output=True, text=True, check=True
    )
    took = json.loads(done.stdout)
    rate = count / took["told"]
    parts = ", ".join(f"{name} after {seconds:.1f} s" for name, seconds in took.items())
    note = f"{count:,} of them: {parts}; database on the other cores"
    return [
        Measurement(
            "commands through their whole life, control on one core", rate, "commands/s", "1,000", rate >= 1000, note
        )
    ]


def wakeup() -> list[Measurement]:
    """One key for ten thousand breakers, two in a hundred of them dead: a connection each, and a device platform."""
    from libs.suite.bench_wakeup import BREAKERS

    found: list[Measurement] = []
    ways = {"Modbus TCP": "modbus", "AEP": "aep", "AEP, only reports subscribed to": "aep-reports"}
    for way, name in ways.items():
        command = [sys.executable, "-m", "libs.suite.bench_wakeup", str(BREAKERS), name]
        took = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        key = f"one key, {BREAKERS:,} breakers, {way}"
        cpu = ", ".join(f"{name} {each:.2f}" for name, each in took["cpu_ms_per_closing"].items())
        note = (
            f"order answered after {took['answered_s']:.1f} s, last contact closed after {took['closed_s']:.1f} s; "
            f"ms of processor a closing: {cpu}"
        )
        found += [
            Measurement(
                f"{key}: {what}", took[name], "s", f"{limit} s", took[name] <= limit, note
            )
            for what, name, limit in (
                ("all commanded", "commanded_s", 5),
                ("all living ones read closed", "verified_s", 15),
                ("all dead ones reported", "dead_reported_s", 20),
            )
        ]  # fmt: skip
    return found


def plans() -> list[Measurement]:
    """How long it takes until a month's shutdowns of very many loads are rows."""
    from libs.suite.bench_plans import DAYS, LOADS, measure

    found = asyncio.run(measure())
    note = f"{found.rows:,} rows, {found.megabytes:.0f} MB; longest transaction {found.longest_s:.2f} s"
    return [
        Measurement(
            f"a plan for {LOADS:,} loads, {DAYS} days of shutdowns made", found.made_s, "s", "under 10 s",
            found.made_s < 10, note,
        )
    ]  # fmt: skip


def callbacks() -> list[Measurement]:
    """How many signed callbacks a second one process makes, to a hundred receivers of which one never answers."""
    command = [sys.executable, "-m", "libs.suite.bench_callbacks"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    note = (
        f"{found['callbacks']:,} in {found['seconds']:.1f} s, {found['cpu_ms_per_callback']:.2f} ms of processor each, "
        f"and {found['database_cpu_ms_per_callback']:.2f} ms of the database"
    )
    return [
        Measurement(
            "callbacks to 100 endpoints, one of them dead", found["callbacks_per_s"], "1/s", "2,000",
            found["callbacks_per_s"] >= 2000, note,
        )
    ]  # fmt: skip


def feeds() -> list[Measurement]:
    """How many points a second one process tells two parties, in batches that both acknowledge."""
    command = [sys.executable, "-m", "libs.suite.bench_feeds"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    note = f"{found['points']:,} in {found['seconds']:.1f} s, {found['cpu_us_per_point']:.2f} µs of processor each"
    return [
        Measurement(
            "points told to two parties alike", found["points_per_s"], "1/s", "50,000",
            found["points_per_s"] >= 50_000, note,
        )
    ]  # fmt: skip


def export() -> list[Measurement]:
    """An operator's units at their centre from one process: logged in, alarms acknowledged, 2,000 points polled."""
    from libs.suite.bench_export import ALARMS_PER_S, CONCURRENCY, LOGINS_PER_S, POLLS, UNITS, measure

    one = measure()
    whole = one.logged_in == one.units > UNITS
    logins = f"{LOGINS_PER_S:g} LOGINs/s, all in after {one.logins_s:.0f} s; most ever resident {one.peak_mb:,.0f} MB"
    pace = (
        f"{one.alarms_per_s:.0f} alarms/s, {one.alarms:,} of other units each, {CONCURRENCY} calls at once; "
        f"{one.alarm_cpu_ms:.1f} ms of export's processor each"
    )
    good = (
        f"{one.points:,} good values in each of {POLLS} replies, p50 {one.poll_p50_ms:.0f} ms, "
        f"{one.poll_cpu_ms:.0f} ms of export's processor each"
    )
    return [
        Measurement(
            f"B interface: memory of the process with {one.logged_in:,} units logged in", one.memory_mb, "MB",
            f"under 1,000 MB with {UNITS:,}", whole and one.memory_mb < 1000, logins,
        ),
        Measurement(
            "B interface: alarm topic → centre's acknowledgement, p99", one.alarm_p99_ms, "ms",
            f"under 300 ms at {ALARMS_PER_S}/s", one.alarm_p99_ms < 300 and one.alarms_per_s > 0.99 * ALARMS_PER_S,
            f"{pace}; p50 {one.alarm_p50_ms:.0f} ms, worst {one.alarm_worst_ms:.0f} ms",
        ),
        Measurement(
            "B interface: GET_DATA of 2,000 points, p99", one.poll_p99_ms, "ms", "under 100 ms",
            one.poll_p99_ms < 100 and one.points == 2000, good,
        ),
        Measurement(
            "  what the centre holds against all it has heard", one.findings, "findings", "0", one.findings == 0
        ),
    ]  # fmt: skip


BENCHMARKS: Mapping[str, Benchmark] = {
    "start": start,
    "chain": chain,
    "alarming": alarming,
    "judging": judging,
    "statistics": statistics,
    "acquisition": acquisition,
    "terminals": terminals,
    "history": history,
    "archive": archive,
    "attesting": attesting,
    "carbon": carbon,
    "control": control,
    "plans": plans,
    "wakeup": wakeup,
    "callbacks": callbacks,
    "feeds": feeds,
    "export": export,
}


def peer_figures() -> list[dict[str, str]]:
    """Return others' figures: ``work, peer, figure, kind``."""
    text = (resources.files("libs.suite") / "data" / "peer_figures.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def show(measurements: Sequence[Measurement]) -> None:
    """Print our figures and, below, those of others."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    ours = Table(title=f"Wattring on this machine ({os.cpu_count()} cores, Python {platform.python_version()})")
    for column in ("what", "measured", "target", "met", "note"):
        ours.add_column(column)
    for one in measurements:
        met = "" if one.met is None else "yes" if one.met else "NO"
        ours.add_row(one.what, f"{one.value:,.1f} {one.unit}", one.target, met, one.note)
    console.print(ours)
    others = Table(title="Others, on their machines")
    for column in ("work", "peer", "figure", "kind"):
        others.add_column(column)
    for row in peer_figures():
        others.add_row(row["work"], row["peer"], row["figure"], row["kind"])
    console.print(others)


def main() -> int:
    """Run the benchmarks named on the command line, or all; return the exit code."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    measurements = [one for name in names for one in BENCHMARKS[name]()]
    show(measurements)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    body = {"machine": machine, "measurements": [asdict(one) for one in measurements]}
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
