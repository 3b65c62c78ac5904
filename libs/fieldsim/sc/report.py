"""What an examination found, as JSON and for people, in English and Chinese."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.fieldsim.sc.catalogue import CATALOGUE, Evidence, Finding, Rule, Severity
from libs.fieldsim.sc.conformance import Step
from libs.fieldsim.sc.faults import Fault
from libs.fieldsim.sc.spec import Spec

SCHEMA = "wattring-sc-report/1"
Entry = Mapping[str, object]
"""One entry of a centre's journal."""


class Verdict(StrEnum):
    """What comes of it all."""

    CONFORMS = "conforms"
    """Nothing that can be broken is broken; something may be unconfirmed."""
    VIOLATIONS = "violations"
    NOT_REACHED = "not_reached"
    """The unit neither answered nor called."""


EXIT_CODES = {Verdict.CONFORMS: 0, Verdict.VIOLATIONS: 1, Verdict.NOT_REACHED: 3}
"""2 is a command line that cannot be read."""

_WAYS = {"in": ("reported", "上报"), "out": ("polled", "轮询")}
_VERDICTS = {
    Verdict.CONFORMS: ("conforms", "符合"),
    Verdict.VIOLATIONS: ("violates the interface", "不符合"),
    Verdict.NOT_REACHED: ("could not be reached", "无法访问"),
}
_OUTCOMES = {"passed": ("passed", "通过"), "unconfirmed": ("unconfirmed", "待确认"), "violation": ("violation", "违反")}


@dataclass(frozen=True, slots=True)
class Seen:
    """A finding with where it was made."""

    finding: Finding
    where: str
    where_zh: str
    command: str
    at: datetime | None = None
    message: str | None = None

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        return {
            **self.finding.as_dict(),
            "where": self.where,
            "where_zh": self.where_zh,
            "command": self.command,
            "at": None if self.at is None else self.at.isoformat(),
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything about one unit."""

    spec: Spec
    unit_id: str
    url: str | None
    began_at: datetime
    ended_at: datetime
    steps: Sequence[Step]
    heard: Sequence[Entry]
    """What the journal has of the unit: what it told the centre, and what it answered to polls besides the steps."""

    @property
    def seen(self) -> list[Seen]:
        """Return every finding: of the polls, of what the unit reported, of what it never reported again."""
        found = [
            Seen(finding, step.title, step.title_zh, step.command, None, step.message)
            for step in self.steps
            for finding in step.findings
        ]
        for entry in self.heard:
            found += [
                Seen(
                    _read(self.spec, each),
                    *_WAYS[str(entry["direction"])],
                    str(entry["name"]),
                    datetime.fromisoformat(str(entry["at"])),
                    None if entry.get("message") is None else str(entry["message"]),
                )
                for each in _listed(entry.get("findings"))
            ]
        found += [Seen(each, "resending", "重发", "SEND_ALARM") for each in unsent_again(self.heard, self.spec)]
        return found

    @property
    def verdict(self) -> Verdict:
        """Return what comes of it all."""
        if not any(step.answered for step in self.steps) and not self.heard:
            return Verdict.NOT_REACHED
        broken = any(each.finding.severity is Severity.VIOLATION for each in self.seen)
        return Verdict.VIOLATIONS if broken else Verdict.CONFORMS

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        seen = self.seen
        rules = dict.fromkeys(each.finding.rule for each in seen)
        return {
            "schema": SCHEMA,
            "dialect": self.spec.name,
            "title": self.spec.title,
            "unit_id": self.unit_id,
            "url": self.url,
            "began_at": self.began_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "verdict": self.verdict.value,
            "violations": _count(seen, Severity.VIOLATION),
            "unconfirmed": _count(seen, Severity.UNCONFIRMED),
            "steps": [
                {
                    "title": step.title,
                    "title_zh": step.title_zh,
                    "command": step.command,
                    "outcome": step.outcome,
                    "result": step.result,
                    "duration_ms": round(step.duration_ms, 1),
                }
                for step in self.steps
            ],
            "heard": _heard(self.heard),
            "rules": {rule.value: self._rule(rule) for rule in rules},
            "findings": [each.as_dict() for each in seen],
        }

    def lines(self) -> Iterable[str]:
        """Yield the report for people."""
        english, chinese = _VERDICTS[self.verdict]
        seen = self.seen
        yield f"Unit {self.unit_id}, dialect {self.spec.name} ({self.spec.title}): {english}  结论：{chinese}"
        yield f"{self.began_at:%Y-%m-%d %H:%M:%S} - {self.ended_at:%H:%M:%S} UTC, {self.url or 'not polled'}"
        for step in self.steps:
            outcome, outcome_zh = _OUTCOMES[step.outcome]
            yield f"  {outcome:<11} {step.command:<20} {step.title}  {step.title_zh}：{outcome_zh}"
        for name, number in _heard(self.heard).items():
            yield f"  heard       {name:<20} {number}  收到 {number} 次"
        for severity, words in (
            (Severity.VIOLATION, "Violations  违反规范"),
            (Severity.UNCONFIRMED, "Unconfirmed, to be asked of the centre  待省中心确认"),
        ):
            chosen = [each for each in seen if each.finding.severity is severity]
            if chosen:
                yield f"{words}: {len(chosen)}"
                for each in chosen:
                    yield from self._told(each)

    def _told(self, each: Seen) -> Iterable[str]:
        finding, rule = each.finding, CATALOGUE[each.finding.rule]
        place = f"{finding.evidence.value}, section {finding.section}"
        yield f"- {finding.rule.value} [{place}] {each.command}: {each.where}"
        yield f"    {rule.title}; seen: {finding.text}"
        yield f"    {rule.title_zh}；实际：{finding.text_zh}"
        if each.message:
            yield f"    {' '.join(each.message.split())}"

    def _rule(self, rule: Rule) -> dict[str, str]:
        section, evidence = CATALOGUE[rule].place(self.spec.name)
        text = CATALOGUE[rule]
        return {"section": section, "evidence": evidence.value, "title": text.title, "title_zh": text.title_zh}


def unsent_again(heard: Sequence[Entry], spec: Spec) -> list[Finding]:
    """Return a finding for each alarm event that was last told without getting a Result 1 for it.

    What was answered late may have arrived in time; nothing is held against the unit for that.
    """
    waiting: dict[tuple[str, str], str] = {}
    for entry in heard:
        for facts in _listed(entry.get("alarms")):
            key = (str(facts["serial"]), str(facts["flag"]))
            if entry["result"] == "1" and entry["fault"] in (None, Fault.LATE.value):
                waiting.pop(key, None)
            else:
                waiting[key] = str(entry["fault"] or "Result 0")
    return [
        spec.found(
            Rule.NOT_RESENT,
            f"{flag} {serial} was last answered with {reason}, and not told again",
            f"{flag} {serial} 最后一次应答为 {reason}，之后未重发",
            serial=serial,
        )
        for (serial, flag), reason in waiting.items()
    ]


def _read(spec: Spec, facts: Mapping[str, object]) -> Finding:
    """Return the finding that a journal entry holds."""
    serial = facts.get("serial")
    return spec.found(
        Rule(str(facts["rule"])),
        str(facts["text"]),
        str(facts.get("text_zh", "")),
        evidence=Evidence(str(facts["evidence"])),
        serial=None if serial is None else str(serial),
    )


def _listed(value: object) -> Sequence[Mapping[str, object]]:
    return value if isinstance(value, list) else ()


def _heard(entries: Sequence[Entry]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for entry in entries:
        if entry["direction"] == "out":
            continue
        numbers[str(entry["name"])] = numbers.get(str(entry["name"]), 0) + 1
    return numbers


def _count(seen: Sequence[Seen], severity: Severity) -> int:
    return sum(1 for each in seen if each.finding.severity is severity)
