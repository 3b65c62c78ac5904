"""The engine against a slow, obvious program that lives second by second, through reports, waiting and crashes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.alarm.domain.derived import Remembered
from services.alarm.domain.engine import Changes, Engine, Judged, Limits
from services.alarm.domain.model import Comparison, Episode, Measure, NoData, Rule
from services.alarm.domain.sites import Sites
from tests.unit.alarm.alarm_builders import Devices, book, reports, seconds, target, us
from tests.unit.alarm.alarm_builders import rule as made

DEVICES = ("m-1", "m-2")
POINT = "voltage_a"
LIMIT, SLACK, GAP = 250.0, 10.0, 60
START, END = 20, 15
RATE_LIMIT, AGE_LIMIT = 30.0, 40.0
PERIOD, MISSED = 10, 3
LIMITS = Limits(tick_grace_us=0, scan_every_us=0, flap_count=1000)

Told = tuple[str, str, str, int, int | None, str | None]
"""Device, rule, phase, begin, end and end reason."""


def rules() -> list[Rule]:
    plain = {
        "hold": made("hold", comparison=Comparison.ABOVE, points=(POINT,), threshold=LIMIT, hysteresis=SLACK,
                     start_delay_s=START, end_delay_s=END, max_gap_s=GAP),
        "alarm": made("alarm", comparison=Comparison.ABOVE, points=(POINT,), threshold=LIMIT, hysteresis=SLACK,
                      start_delay_s=START, end_delay_s=END, max_gap_s=GAP, no_data=NoData.ALARM),
        "clear": made("clear", comparison=Comparison.ABOVE, points=(POINT,), threshold=LIMIT, hysteresis=SLACK,
                      start_delay_s=START, end_delay_s=END, max_gap_s=GAP, no_data=NoData.CLEAR),
        "rate": made("rate", comparison=Comparison.ABOVE, points=(POINT,), threshold=RATE_LIMIT, start_delay_s=0.0,
                     end_delay_s=0.0, max_gap_s=GAP),
        "age": made("age", comparison=Comparison.ABOVE, points=(POINT,), threshold=AGE_LIMIT, start_delay_s=0.0,
                    end_delay_s=END, max_gap_s=GAP),
        "silent": made("silent", comparison=Comparison.ABOVE, points=(), threshold=float(MISSED), start_delay_s=START,
                       end_delay_s=END, max_gap_s=GAP),
    }  # fmt: skip
    measures = {"rate": Measure.RATE, "age": Measure.AGE, "silent": Measure.SILENCE}
    return [replace(one, measure=measures.get(name, Measure.VALUE)) for name, one in plain.items()]


@dataclass
class Slow:
    """One rule on one device."""

    device: str
    name: str
    told: list[Told]
    start: int = START
    end: int = END
    policy: str = "hold"
    limit: float = LIMIT
    slack: float = 0.0
    state: str = "NORMAL"
    began: int = 0
    since: int = 0
    seen: int = 0
    heard: int = 0

    def to(self, past: int, now: int) -> None:
        """Let delays that were over at ``past`` take effect; it is ``now``, and nothing was said since."""
        if self.state == "NORMAL" and self.policy == "alarm" and self.heard + GAP + self.start <= past:
            self.state, self.began = "ACTIVE", self.heard + GAP
            self.since = self.seen = self.began
            self.told.append((self.device, self.name, "begin", self.began, None, None))
        stands_until = self.seen + GAP
        if self.state == "PENDING":
            due = self.since + self.start
            if due <= past and (due <= stands_until or self.policy == "alarm"):
                self.state = "ACTIVE"
                self.told.append((self.device, self.name, "begin", self.began, None, None))
            elif now > stands_until and self.policy != "alarm":
                self.state = "NORMAL"
        elif self.state == "CLEARING":
            due = self.since + self.end
            if due <= past and due <= stands_until:
                self.finish(self.since, "recovered")
            elif now > stands_until:
                if self.policy == "clear":
                    self.finish(self.since, "no_data")
                else:
                    self.state = "ACTIVE"
        if self.state == "ACTIVE" and self.policy == "clear" and now > stands_until:
            self.finish(stands_until, "no_data")

    def finish(self, at: int, reason: str) -> None:
        self.state = "NORMAL"
        self.told.append((self.device, self.name, "end", self.began, at, reason))

    def report(self, at: int, value: float | None) -> None:
        self.heard = at
        if value is None:
            return
        raised = self.state in ("ACTIVE", "CLEARING", "DISMISSED")
        holds = value > self.limit - (self.slack if raised else 0.0)
        if holds and self.state == "NORMAL":
            self.state, self.began, self.since = "PENDING", at, at
        elif holds and self.state == "CLEARING":
            self.state = "ACTIVE"
        elif not holds and self.state in ("PENDING", "DISMISSED"):
            self.state = "NORMAL"
        elif not holds and self.state == "ACTIVE":
            self.state, self.since = "CLEARING", at
        self.seen = at
        if self.state == "PENDING" and self.since + self.start <= at:
            self.state = "ACTIVE"
            self.told.append((self.device, self.name, "begin", self.began, None, None))
        elif self.state == "CLEARING" and self.since + self.end <= at:
            self.finish(self.since, "recovered")

    def dismiss(self, now: int) -> None:
        self.state = "DISMISSED" if self.state == "ACTIVE" else "NORMAL"


@dataclass
class SlowSilence(Slow):
    """The rule on silence, on one device."""

    def to(self, past: int, now: int) -> None:
        lost = self.heard + PERIOD * MISSED
        if self.state == "NORMAL" and lost + self.start <= past:
            self.state, self.began = "ACTIVE", lost
            self.told.append((self.device, self.name, "begin", lost, None, None))
        elif self.state == "CLEARING":
            due = self.since + self.end
            if lost < due:
                if lost <= past:
                    self.state = "ACTIVE"
            elif due <= past:
                self.finish(self.since, "recovered")

    def report(self, at: int, value: float | None) -> None:
        self.heard = at
        if self.state == "DISMISSED":
            self.state = "NORMAL"
        elif self.state == "ACTIVE":
            self.state, self.since = "CLEARING", at
        if self.state == "CLEARING" and self.since + self.end <= at:
            self.finish(self.since, "recovered")


@dataclass
class SlowDevice:
    """Six rules on one device, and what they remember."""

    name: str
    told: list[Told]
    value: float | None = None
    since: int | None = None
    now: int = 0
    rules: dict[str, Slow] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for policy in ("hold", "alarm", "clear"):
            self.rules[policy] = Slow(self.name, policy, self.told, policy=policy, slack=SLACK)
        self.rules["rate"] = Slow(self.name, "rate", self.told, start=0, end=0, limit=RATE_LIMIT)
        self.rules["age"] = Slow(self.name, "age", self.told, start=0, limit=AGE_LIMIT)
        self.rules["silent"] = SlowSilence(self.name, "silent", self.told)

    def live_to(self, at: int) -> None:
        for second in range(self.now + 1, at + 1):
            for one in self.rules.values():
                one.to(second - 1, second)
        self.now = at

    def look(self, at: int) -> None:
        self.live_to(at)
        for one in self.rules.values():
            one.to(at, at)

    def report(self, at: int, value: float | None) -> None:
        self.live_to(at)
        rate = age = None
        if value is not None and self.value is not None and self.since is not None and at > self.since:
            rate = None if at - self.since > 900 else (value - self.value) / ((at - self.since) / 60)
        age = 0.0 if value is not None or self.since is None else float(at - self.since)
        if value is not None:
            self.value, self.since = value, at
        elif self.since is None:
            self.since = at
        for name, one in self.rules.items():
            one.report(at, {"rate": rate, "age": age}.get(name, value))


class Alarms(RuleBasedStateMachine):
    """Both programs side by side."""

    @initialize()
    def begin(self) -> None:
        self.directory = Devices(*(target(name, points=frozenset({POINT}), period_s=float(PERIOD)) for name in DEVICES))
        self.now = 0
        self.fast: list[Told] = []
        self.slow: list[Told] = []
        self.ids: dict[str, list[int]] = {}
        self.active: dict[tuple[str, str], str] = {}
        self.judged: dict[str, Judged] = {}
        self.heard: dict[str, tuple[str, int, int]] = {}
        self.values: dict[str, Remembered] = {}
        self.episodes: dict[tuple[str, str], Episode] = {}
        self.devices = {name: SlowDevice(name, self.slow) for name in DEVICES}
        self.engine = self.started()
        self.look()

    def started(self) -> Engine:
        engine = Engine(book=book(*rules()), directory=self.directory, sites=Sites(self.directory), limits=LIMITS)
        engine.load(
            self.judged.values(),
            [(device, name, episode) for (device, name), episode in self.episodes.items()],
            [],
            self.heard.values(),
            self.values.items(),
        )
        for name in DEVICES:
            engine.expect(name, 0)
        changes = Changes()
        engine.reconsider(changes)
        engine._sites.load(engine.standings({0}), [], [], [])
        assert changes.steps == []
        return engine

    @rule(device=st.sampled_from(DEVICES), wait=st.sampled_from((1, 5, 5, 10, 10, 10, 20, 31, 70)),
          value=st.sampled_from((None, 230.0, 230.0, 245.0, 251.0, 300.0)))  # fmt: skip
    def report(self, device: str, wait: int, value: float | None) -> None:
        self.now += wait
        changes = Changes()
        self.engine.judge(reports([(device, float(self.now), {POINT: value}, frozenset())]), changes)
        self.keep(changes)
        self.devices[device].report(self.now, value)
        self.look()

    @rule(wait=st.sampled_from((1, 7, 15, 20, 30, 61, 100, 2000)))
    def wait(self, wait: int) -> None:
        self.now += wait
        self.look()

    @rule()
    def crash(self) -> None:
        self.engine = self.started()

    @precondition(lambda self: bool(getattr(self, "active", None)))
    @rule(data=st.data())
    def dismiss(self, data: st.DataObject) -> None:
        device, name = data.draw(st.sampled_from(sorted(self.active)))
        changes = Changes()
        assert self.engine.dismiss(self.active[device, name], changes, actor="user:a", note=None)
        assert [step.end_reason for step in changes.steps] == ["manual"]
        changes.steps.clear()
        del self.active[device, name]
        self.keep(changes)
        self.devices[device].rules[name].dismiss(self.now)

    def look(self) -> None:
        """Let both look at the clock, as heartbeats make them do."""
        changes = Changes()
        self.engine.tick(0, us(self.now), changes)
        self.keep(changes)
        for one in self.devices.values():
            one.look(self.now)

    def keep(self, changes: Changes) -> None:
        """Store what a transaction would."""
        for slot in changes.judged:
            one = self.engine.judged(slot)
            self.judged[one.device_id] = one
        for slot in changes.heard:
            heard = self.engine.heard(slot)
            self.heard[heard[0]] = heard
        for slot in changes.remembered:
            device, _, values = self.engine.remembered(slot)
            self.values[device] = values
        for key, episode in changes.episodes.items():
            if episode is None:
                self.episodes.pop(key, None)
            else:
                self.episodes[key] = episode
        for step in changes.steps:
            self.hear(step.device_id, step.rule_id, step.alarm_id, step.sequence, vars_of(step))

    def hear(self, device: str, name: str, alarm_id: str, sequence: int, told: Told) -> None:
        self.ids.setdefault(alarm_id, []).append(sequence)
        if told[2] == "begin":
            self.active[device, name] = alarm_id
        elif told[2] == "end":
            del self.active[device, name]
        if told[2] != "update":
            self.fast.append(told)

    @invariant()
    def same_story(self) -> None:
        if hasattr(self, "fast"):
            assert sorted(self.fast, key=str) == sorted(self.slow, key=str)

    @invariant()
    def one_begin_and_rising_sequences(self) -> None:
        for sequences in getattr(self, "ids", {}).values():
            assert sequences == list(range(1, len(sequences) + 1))

    @invariant()
    def same_states(self) -> None:
        for name, device in getattr(self, "devices", {}).items():
            for rule_id, slow in device.rules.items():
                episode = self.engine.episode(name, rule_id)
                found = "NORMAL" if episode is None else episode.state.name
                # Pending silence is no state of the engine: when a device was heard says it all.
                assert found == slow.state


def vars_of(step: object) -> Told:
    facts: Mapping[str, object] = {name: getattr(step, name) for name in step.__slots__}  # type: ignore[attr-defined]
    ended = seconds(facts["ended_us"])  # type: ignore[arg-type]
    reason = facts["end_reason"]
    return (
        str(facts["device_id"]),
        str(facts["rule_id"]),
        str(facts["phase"]),
        int(seconds(facts["began_us"]) or 0),  # type: ignore[arg-type]
        None if ended is None else int(ended),
        None if reason is None else str(reason),
    )


TestAlarms = Alarms.TestCase
TestAlarms.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
