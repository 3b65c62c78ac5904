"""``wattring demo-report``: the demonstration's story as a table, with ids, times, and delays expected and seen.

The facts are read from the public API, the centre's side from its own journal. ``story`` turns them into steps and
touches nothing. A step that has not happened is *missing*, and then the command ends with an error; one that took
longer than expected is marked and is no error, since machines differ.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import Unavailable
from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.demo import DELAY_S, HISTORY_FILE, PLAN, RULE
from libs.suite.words import Words

POLL_S = 1.0
FRESH_S = 30.0
"""A live value is younger than this. [s]"""
JUDGED_WITHIN_S = 5.0
"""Beside the rule's delay: a poll every 2 s, and a report in flight that may contradict. [s]"""
DELIVERED_WITHIN_S = 1.0
SWITCHED_WITHIN_S = 5.0
"""From the time of the plan to the proof by read-back. [s]"""
OFF_SHARE = 0.2
"""Of the power before: less is off, more is on again."""
BEFORE_S = 15.0
"""How long before the shutdown the power is looked at. [s]"""
AFTER_S = 120.0
"""How long after the wake-up it is looked at: a late wake-up is slow, not missing. [s]"""
POWER = "active_power_total"

Document = Mapping[str, Any]
State = Literal["ok", "slow", "missing"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the story."""

    name: str
    state: State
    ids: str = ""
    at: datetime | None = None
    expected_s: float | None = None
    """Delay that it should have at most, after the step it follows from. [s]"""
    seen_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the API and the centre's journal say."""

    now: datetime
    latest: Sequence[Document] = ()
    devices: Sequence[Document] = ()
    imports: Sequence[Document] = ()
    plan: Document | None = None
    occurrence: Document | None = None
    off_command: Document | None = None
    on_command: Document | None = None
    meter: str = ""
    power: Sequence[Document] = ()
    """Reports of the switched load's meter around the shutdown."""
    alarm: Document | None = None
    deliveries: Sequence[Document] = ()
    centre: Sequence[Document] = ()
    """Alarms that the centre took, as its journal has them."""
    site: str = ""
    emissions: Document | None = None
    problems: Sequence[str] = field(default=())
    """Services that did not answer."""


def story(facts: Facts, words: Words) -> list[Step]:
    """Return the steps in the order in which they happen."""
    return [
        _live(facts, words),
        _history(facts, words),
        *_alarm(facts, words),
        *_shutdown(facts, words),
        *_energy(facts, words),
    ]


def _live(facts: Facts, words: Words) -> Step:
    name = words("live values of the devices", "设备实时数据")
    times = [_time(one["source_time"]) for one in facts.latest]
    fresh = [at for at in times if (facts.now - at).total_seconds() < FRESH_S]
    missing = len(facts.devices) - len(fresh)
    if missing > 0 or not fresh:
        detail = words(
            f"{len(fresh)} of {len(facts.devices)} devices", f"{len(facts.devices)} 台设备中 {len(fresh)} 台在线"
        )
        return Step(name, "missing", detail=detail)
    age_s = (facts.now - min(fresh)).total_seconds()
    detail = words(f"{len(fresh)} devices, oldest value", f"{len(fresh)} 台设备,最旧数据")
    return _timed(Step(name, "ok", at=max(fresh), expected_s=FRESH_S, seen_s=age_s, detail=detail))


def _history(facts: Facts, words: Words) -> Step:
    name = words("48 hours of history imported", "48 小时历史数据导入")
    for one in facts.imports:
        if one["file"] == HISTORY_FILE and one["state"] == "succeeded":
            count = (one.get("counts") or {}).get("accepted", 0)
            return Step(
                name, "ok", one["id"], _time(one["finished_at"]), detail=words(f"{count} reports", f"{count} 条")
            )
    return Step(name, "missing")


def _alarm(facts: Facts, words: Words) -> list[Step]:
    names = {
        "began": words("voltage sag begins", "电压跌落开始"),
        "raised": words("alarm raised after the start delay", "超过起始延时,告警产生"),
        "begin": words("begin acknowledged by the SC", "告警产生已上报监控中心"),
        "ended": words("voltage is back", "电压恢复"),
        "closed": words("alarm ended after the end delay", "超过恢复延时,告警消除"),
        "end": words("end acknowledged by the SC", "告警消除已上报监控中心"),
        "both": words("both are in the SC's own journal", "监控中心报文记录中两者俱全"),
    }
    alarm = facts.alarm
    if alarm is None:
        return [Step(name, "missing") for name in names.values()]
    began, raised = _time(alarm["began_at"]), _time(alarm["raised_at"])
    value = f"{alarm['device_id']} {alarm['point']} {alarm['value']:g} {alarm['unit']} < {alarm['threshold']:g}"
    within_s = DELAY_S + JUDGED_WITHIN_S
    steps = [
        Step(names["began"], "ok", alarm["device_id"], began, detail=value),
        _timed(Step(names["raised"], "ok", alarm["alarm_id"], raised, within_s, _seconds(began, raised))),
        _delivery(names["begin"], facts, "begin", raised),
    ]
    if alarm.get("ended_at") is None or alarm.get("closed_at") is None:
        return [*steps, *(Step(names[name], "missing") for name in ("ended", "closed", "end", "both"))]
    ended, closed = _time(alarm["ended_at"]), _time(alarm["closed_at"])
    return [
        *steps,
        Step(names["ended"], "ok", alarm["device_id"], ended),
        _timed(Step(names["closed"], "ok", alarm["alarm_id"], closed, within_s, _seconds(ended, closed))),
        _delivery(names["end"], facts, "end", closed),
        _journal(names["both"], facts, words),
    ]


def _delivery(name: str, facts: Facts, step: str, decided: datetime) -> Step:
    for one in facts.deliveries:
        if one["step"] == step and one["state"] == "delivered":
            at = _time(one["finished_at"])
            ids = f"{one['unit_id']} #{one['serial']}"
            return _timed(Step(name, "ok", ids, at, DELIVERED_WITHIN_S, _seconds(decided, at), one["text"]))
    return Step(name, "missing")


def _journal(name: str, facts: Facts, words: Words) -> Step:
    serials = {one["serial"] for one in facts.deliveries}
    taken = [one for one in facts.centre if one["serial"] in serials and one["unit_id"] in _units(facts)]
    if {one["flag"] for one in taken} != {"BEGIN", "END"}:
        return Step(name, "missing")
    return Step(name, "ok", f"#{taken[0]['serial']}", detail=words("BEGIN and END", "产生与消除"))


def _units(facts: Facts) -> set[str]:
    return {one["unit_id"] for one in facts.deliveries}


def _shutdown(facts: Facts, words: Words) -> list[Step]:
    names = {
        "plan": words("savings plan in force", "节能策略生效"),
        "off": words("breaker opened, read back", "断路器分闸,回读确认"),
        "fell": words("power of the load fell", "负载功率下降"),
        "on": words("breaker closed again, read back", "断路器合闸,回读确认"),
        "rose": words("power of the load is back", "负载功率恢复"),
    }
    plan, occurrence = facts.plan, facts.occurrence
    if plan is None or plan.get("approved_at") is None:
        return [Step(name, "missing") for name in names.values()]
    steps = [Step(names["plan"], "ok", plan["plan_id"], _time(plan["approved_at"]), detail=plan["name"])]
    if occurrence is None:
        return [*steps, *(Step(names[name], "missing") for name in ("off", "fell", "on", "rose"))]
    off_at, on_at = _time(occurrence["off_at"]), _time(occurrence["on_at"])
    before_kw = _power_before(facts, off_at)
    steps.append(_switched(names["off"], facts.off_command, occurrence.get("went_off_at"), off_at))
    steps.append(_power(names["fell"], facts, off_at, on_at, lambda kw: kw < OFF_SHARE * before_kw, before_kw))
    steps.append(_switched(names["on"], facts.on_command, occurrence.get("came_on_at"), on_at))
    until = on_at + timedelta(seconds=AFTER_S)
    steps.append(_power(names["rose"], facts, on_at, until, lambda kw: kw > OFF_SHARE * before_kw, before_kw))
    return steps


def _switched(name: str, command: Document | None, proven: str | None, due: datetime) -> Step:
    if command is None or proven is None or command["state"] != "succeeded":
        state = "" if command is None else f"{command['state']} {command['reason']}".strip()
        return Step(name, "missing", "" if command is None else command["command_id"], detail=state)
    evidence: Document = next(
        (one["evidence"] for one in reversed(command["history"]) if one["state"] == "succeeded"), {}
    )
    detail = f"{evidence.get('feedback_point')} {evidence.get('feedback_value')}"
    if evidence.get("meter_power_kw") is not None:
        detail += f", {evidence.get('meter_device_id')} {evidence['meter_power_kw']:.3g} kW"
    at = _time(proven)
    return _timed(Step(name, "ok", command["command_id"], at, SWITCHED_WITHIN_S, _seconds(due, at), detail))


def _power_before(facts: Facts, off_at: datetime) -> float:
    values = [kw for at, kw in _powers(facts) if at < off_at]
    return max(values, default=0.0)


def _power(
    name: str, facts: Facts, due: datetime, until: datetime, reached: Callable[[float], bool], before_kw: float
) -> Step:
    for at, kw in _powers(facts):
        if due < at < until and before_kw > 0 and reached(kw):
            detail = f"{before_kw:.3f} kW / {kw:.3f} kW"
            return _timed(Step(name, "ok", facts.meter, at, SWITCHED_WITHIN_S, _seconds(due, at), detail))
    return Step(name, "missing", facts.meter)


def _powers(facts: Facts) -> list[tuple[datetime, float]]:
    found = [(_time(one["source_time"]), one["points"].get(POWER)) for one in facts.power]
    return sorted((at, float(kw)) for at, kw in found if kw is not None)


def _energy(facts: Facts, words: Words) -> list[Step]:
    hourly = words("energy and carbon of the site per hour", "局站逐小时能耗与碳排放")
    running = words("the running hour is marked provisional", "当前小时标记为暂估")
    if facts.emissions is None:
        return [Step(hourly, "missing"), Step(running, "missing")]
    periods = [one for one in facts.emissions["periods"] if one["emission_kg_co2"] is not None]
    done = [one for one in periods if not one["provisional"]]
    now = next((one for one in periods if _time(one["start"]) <= facts.now < _time(one["end"])), None)
    factors = ", ".join(f"{one['value']} {one['unit']} ({one['source']})" for one in facts.emissions["factors"])
    return [
        Step(hourly, "ok", facts.site, _time(done[-1]["start"]), detail=f"{_amount(done[-1])}; {factors}")
        if done
        else Step(hourly, "missing", facts.site),
        Step(running, "ok", facts.site, _time(now["start"]), detail=_amount(now))
        if now is not None and now["provisional"]
        else Step(running, "missing", facts.site),
    ]


def _amount(period: Document) -> str:
    return f"{period['energy_kwh']:.2f} kWh, {period['emission_kg_co2']:.2f} kgCO2"


def _timed(step: Step) -> Step:
    late = step.expected_s is not None and step.seen_s is not None and step.seen_s > step.expected_s
    return Step(**{**asdict(step), "state": "slow"}) if late else step


def _seconds(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


# Reading the facts.


def fetch(api: LocalApi, journal: Path) -> Facts:
    """Read the facts of the latest demonstration; what is not there yet is left out.

    Raises:
        Unavailable: No suite answers.
    """
    plan = next((one for one in api.get("plans", limit=50)["items"] if one["name"].startswith(PLAN)), None)
    began = _time(plan["created_at"]) - timedelta(seconds=60) if plan is not None else None
    occurrence = _occurrence(api, plan)
    alarm = _latest_alarm(api, began)
    now = datetime.now(UTC)
    site = alarm["site_id"] if alarm is not None else ""
    meter = _meter(api, occurrence)
    return Facts(
        now=now,
        latest=api.get("readings/latest", limit=1000)["items"],
        devices=[one for one in api.get("devices", limit=1000)["items"] if one.get("line")],
        imports=api.get("imports", limit=200)["items"],
        plan=plan,
        occurrence=occurrence,
        off_command=_command(api, occurrence, "off_command_id"),
        on_command=_command(api, occurrence, "on_command_id"),
        meter=meter,
        power=_power_reports(api, meter, occurrence),
        alarm=alarm,
        deliveries=api.get("deliveries", alarm=alarm["alarm_id"])["items"] if alarm is not None else (),
        centre=_taken_by_centre(journal),
        site=site,
        emissions=_emissions(api, site, now) if site else None,
    )


def _latest_alarm(api: LocalApi, began: datetime | None) -> Document | None:
    """Return this demonstration's alarm: the first that has ended, else the first."""
    if began is None:
        return None
    found = api.get("alarms", signal=RULE, limit=100, **{"from": began.isoformat()})["items"]
    oldest_first: list[Document] = sorted(found, key=lambda one: str(one["began_at"]))
    return next((one for one in oldest_first if one["state"] == "ended"), oldest_first[0] if oldest_first else None)


def _occurrence(api: LocalApi, plan: Document | None) -> Document | None:
    if plan is None:
        return None
    found: Sequence[Document] = api.get("occurrences", plan=plan["plan_id"])["items"]
    return found[0] if found else None


def _command(api: LocalApi, occurrence: Document | None, name: str) -> Document | None:
    if occurrence is None or occurrence.get(name) is None:
        return None
    command: Document = api.get(f"commands/{occurrence[name]}")
    return command


def _meter(api: LocalApi, occurrence: Document | None) -> str:
    """Return the meter on the circuit of the switched load."""
    if occurrence is None:
        return ""
    circuit = api.get(f"loads/{occurrence['load_id']}").get("meter")
    bindings = api.get("bindings", circuit=circuit, limit=10)["items"]
    return str(bindings[0]["device"]) if bindings else ""


def _power_reports(api: LocalApi, meter: str, occurrence: Document | None) -> Sequence[Document]:
    if occurrence is None or not meter:
        return ()
    start = _time(occurrence["off_at"]) - timedelta(seconds=BEFORE_S)
    end = _time(occurrence["on_at"]) + timedelta(seconds=AFTER_S)
    span = {"from": start.isoformat(), "to": end.isoformat()}
    items: Sequence[Document] = api.get("readings", device=meter, points=POWER, limit=1000, **span)["items"]
    return items


def _emissions(api: LocalApi, site: str, now: datetime) -> Document:
    hour = now.replace(minute=0, second=0, microsecond=0)
    span = {"from": (hour - timedelta(hours=3)).isoformat(), "to": (hour + timedelta(hours=1)).isoformat()}
    found: Document = api.get("emissions", site=site, step="hour", **span)
    return found


def _taken_by_centre(journal: Path) -> list[Document]:
    if not journal.exists():
        return []
    found: list[Document] = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line) if '"SEND_ALARM"' in line else {}
        if entry.get("taken"):
            found += entry["alarms"]
    return found


# Showing.


def show(settings: CommonSettings, words: Words, *, wait_s: float, as_json: bool) -> int:
    """Print the story; wait up to ``wait_s`` for what is still missing; return the exit code."""
    deadline = time.monotonic() + wait_s
    journal = settings.data_dir.absolute() / "field" / "sc-journal.jsonl"
    with LocalApi(settings) as api:
        while True:
            try:
                steps = story(fetch(api, journal), words)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                steps = []
            complete = bool(steps) and all(step.state != "missing" for step in steps)
            if complete or time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
    if as_json:
        print(json.dumps([asdict(step) for step in steps], default=str, ensure_ascii=False, indent=2))  # noqa: T201
    else:
        _print_table(steps, words)
    return 0 if complete else 1


def _print_table(steps: Sequence[Step], words: Words) -> None:
    from rich.console import Console
    from rich.table import Table

    marks: Mapping[State, str] = {
        "ok": words("ok", "完成"),
        "slow": words("slow", "偏慢"),
        "missing": words("MISSING", "缺失"),
    }
    table = Table(title=words("What the demonstration showed (times UTC+8)", "演示过程(北京时间)"))
    table.add_column(words("step, id, detail", "步骤、编号、说明"), overflow="fold", ratio=1)
    for column in (words("time", "时间"), words("expected", "预期"), words("seen", "实际"), words("result", "结果")):
        table.add_column(column, no_wrap=True)
    for step in steps:
        table.add_row(
            "\n".join([step.name, *(f"  {text}" for text in (step.ids, step.detail) if text)]),
            "" if step.at is None else f"{step.at.astimezone(CIVIL_ZONE):%H:%M:%S.%f}"[:-5],
            "" if step.expected_s is None else f"≤ {step.expected_s:.0f} s",
            "" if step.seen_s is None else f"{step.seen_s:.2f} s",
            marks[step.state],
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)
    missing = sum(step.state == "missing" for step in steps)
    if missing:
        console.print(words(f"{missing} of {len(steps)} steps are missing", f"共 {len(steps)} 步,缺失 {missing} 步"))
