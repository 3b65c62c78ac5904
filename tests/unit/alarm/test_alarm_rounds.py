"""A batch gives what one report after the other gives, and both give what a slow, obvious program gives."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.alarm.domain.engine import Changes, Engine, Limits
from services.alarm.domain.model import Comparison, EndReason, Quantifier, StepPhase
from services.alarm.domain.sites import Sites
from tests.unit.alarm.alarm_builders import Devices, book, reports, rule, seconds, target, us

HIGH, LOW, RECOVERY = 260, 160, 10
MAX_GAP = 12
POINTS = ("voltage_a", "voltage_b", "voltage_c")
VALUES = (150, 160, 165, 170, 230, 250, 255, 260, 261)


@dataclass(frozen=True)
class Line:
    """One report of the test: whole seconds, None for a null, "bad" for a bad value, nothing for a missing one."""

    device: str
    at: int
    received: int
    points: tuple[tuple[str, int | None], ...]
    bad: frozenset[str]


@dataclass(frozen=True)
class Spec:
    """A rule in the test's own words."""

    name: str
    above: bool
    limit: int
    least: int
    most: int
    points: tuple[str, ...]
    start_delay: int
    end_delay: int


def specs(start_delay: int, end_delay: int) -> list[Spec]:
    return [
        Spec("any_high", True, HIGH, 1, 3, POINTS, start_delay, end_delay),
        Spec("any_low", False, LOW, 1, 3, POINTS, start_delay, end_delay),
        Spec("all_low", False, LOW, 3, 3, POINTS, end_delay, start_delay),
        Spec("some_low", False, LOW, 1, 2, POINTS, 0, end_delay),
        Spec("a_high", True, HIGH, 1, 1, ("voltage_a",), start_delay, 0),
    ]


def slow_holds(spec: Spec, line: Line, raised: bool) -> bool | None:
    """Try every value the unknown points could have."""
    slack = RECOVERY if raised else 0
    given_values = dict(line.points)
    violated = unknown = 0
    for name in spec.points:
        value = given_values.get(name)
        if value is None or name in line.bad:
            unknown += 1
        elif spec.above:
            violated += value > spec.limit - slack
        else:
            violated += value < spec.limit + slack
    outcomes = {spec.least <= violated + extra <= spec.most for extra in range(unknown + 1)}
    return outcomes.pop() if len(outcomes) == 1 else None


Story = list[tuple[str, int, int | None]]


class SlowRule:
    """One rule on one device, living second by second."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.state = "NORMAL"
        self.began = self.since = self.seen = 0
        self.story: Story = []

    def second_passes(self, now: int) -> None:
        """What time alone does at the start of second ``now``; called for each second in turn."""
        stands = now - self.seen <= MAX_GAP
        if self.state == "PENDING" and self._delay_was_over_before(now):
            self._begin()
        elif self.state == "CLEARING" and self._delay_was_over_before(now):
            self._end()
        elif self.state == "PENDING" and not stands:
            self.state = "NORMAL"
        elif self.state == "CLEARING" and not stands:
            self.state = "ACTIVE"

    def _delay_was_over_before(self, now: int) -> bool:
        over = now - 1 - self.since >= self._delay()
        return over and self.since + self._delay() <= self.seen + MAX_GAP

    def _delay(self) -> int:
        return self.spec.start_delay if self.state == "PENDING" else self.spec.end_delay

    def report(self, line: Line) -> None:
        verdict = slow_holds(self.spec, line, raised=self.state in ("ACTIVE", "CLEARING"))
        if verdict is None:
            return
        if verdict and self.state == "NORMAL":
            self.state, self.began, self.since = "PENDING", line.at, line.at
        elif verdict and self.state == "CLEARING":
            self.state = "ACTIVE"
        elif not verdict and self.state == "PENDING":
            self.state = "NORMAL"
        elif not verdict and self.state == "ACTIVE":
            self.state, self.since = "CLEARING", line.at
        self.seen = line.at
        over = line.at - self.since >= self._delay()
        if self.state == "PENDING" and over:
            self._begin()
        elif self.state == "CLEARING" and over and line.at > self.began:
            self._end()

    def _begin(self) -> None:
        self.state = "ACTIVE"
        self.story.append(("begin", self.began, None))

    def _end(self) -> None:
        self.state = "NORMAL"
        self.story.append(("end", self.began, self.since))


def slow_story(lines: list[Line], delays: tuple[int, int]) -> dict[tuple[str, str], Story]:
    found: dict[tuple[str, str], Story] = {}
    for device in sorted({line.device for line in lines}):
        rules = [SlowRule(spec) for spec in specs(*delays)]
        now: int | None = None
        for line in (line for line in lines if line.device == device):
            if line.at > line.received + 300 or (now is not None and line.at < now):
                continue
            for second in range(line.at if now is None else now + 1, line.at + 1):
                for one in rules:
                    one.second_passes(second)
            now = line.at
            for one in rules:
                one.report(line)
        found |= {(device, one.spec.name): one.story for one in rules}
    return found


def engine(delays: tuple[int, int]) -> Engine:
    def made(spec: Spec) -> object:
        quantifier = Quantifier.ALL if spec.least == 3 else Quantifier.SOME if spec.most == 2 else Quantifier.ANY
        return rule(
            spec.name,
            comparison=Comparison.ABOVE if spec.above else Comparison.BELOW,
            quantifier=quantifier,
            points=spec.points,
            threshold=float(spec.limit),
            hysteresis=float(RECOVERY),
            start_delay_s=spec.start_delay,
            end_delay_s=spec.end_delay,
            max_gap_s=MAX_GAP,
        )

    devices = Devices(*(target(name) for name in ("m-1", "m-2", "m-3")))
    rules = book(*(made(spec) for spec in specs(*delays)))  # type: ignore[arg-type]
    return Engine(book=rules, directory=devices, sites=Sites(devices), limits=Limits())


def fast_story(lines: list[Line], sizes: list[int], delays: tuple[int, int]) -> dict[tuple[str, str], Story]:
    judge = engine(delays)
    found: dict[tuple[str, str], Story] = {
        (device, spec.name): [] for device in {line.device for line in lines} for spec in specs(*delays)
    }
    ids: dict[str, list[tuple[StepPhase, int]]] = {}
    rest = list(lines)
    turn = 0
    while rest:
        size = sizes[turn % len(sizes)]
        chunk, rest = rest[:size], rest[size:]
        turn += 1
        batch = reports((line.device, line.at, dict(line.points), line.bad) for line in chunk)
        batch.received_us = [us(line.received) for line in chunk]
        changes = Changes()
        judge.judge(batch, changes)
        for step in changes.steps:
            ended = seconds(step.ended_us)
            entry = (step.phase.value, int(seconds(step.began_us) or 0), None if ended is None else int(ended))
            found[step.device_id, step.rule_id].append(entry)
            ids.setdefault(step.alarm_id, []).append((step.phase, step.sequence))
            assert (step.end_reason is EndReason.RECOVERED) == (step.phase is StepPhase.END)
    for steps in ids.values():
        assert steps in ([(StepPhase.BEGIN, 1)], [(StepPhase.BEGIN, 1), (StepPhase.END, 2)])
    return found


value = st.one_of(st.none(), *([st.sampled_from(VALUES)] * 6))


@st.composite
def lines(draw: st.DrawFn) -> list[Line]:
    """Reports of three devices: mostly rising times, some equal, late or far in the future."""
    clocks = {"m-1": 0, "m-2": 0, "m-3": 0}
    found: list[Line] = []
    for _ in range(draw(st.integers(1, 40))):
        device = draw(st.sampled_from(("m-1", "m-1", "m-2", "m-3")))
        clocks[device] += draw(st.sampled_from((0, 1, 1, 2, 3, 5, 8, 13, 14, 30)))
        late = draw(st.sampled_from((0, 0, 0, 0, 0, 4)))
        future = draw(st.sampled_from((0, 0, 0, 0, 0, 0, 0, 1_000)))
        names = draw(st.sampled_from((POINTS, POINTS, POINTS, POINTS[:1], POINTS[1:], ())))
        bad = draw(st.sampled_from((frozenset(), frozenset(), frozenset({"voltage_a"}), frozenset(POINTS))))
        found.append(
            Line(
                device=device,
                at=clocks[device] - late + future,
                received=clocks[device],
                points=tuple((name, draw(value)) for name in names),
                bad=bad,
            )
        )
    return found


delays = st.tuples(st.sampled_from((0, 3, 5, 20)), st.sampled_from((0, 2, 5, 20)))


@settings(max_examples=300, deadline=None)
@given(lines(), st.lists(st.integers(1, 20), min_size=1, max_size=5), delays)
def test_batches_of_any_size_give_what_the_slow_program_gives(
    history: list[Line], sizes: list[int], pair: tuple[int, int]
) -> None:
    assert fast_story(history, sizes, pair) == slow_story(history, pair)


@settings(max_examples=100, deadline=None)
@given(lines(), delays)
def test_one_batch_gives_what_one_report_after_the_other_gives(history: list[Line], pair: tuple[int, int]) -> None:
    assert fast_story(history, [len(history)], pair) == fast_story(history, [1], pair)


def test_a_backlog_of_many_reports_per_device_raises_and_ends_everything() -> None:
    """The dry run's case: 50 devices, 60 reports each, in one batch; one vectorised step would raise none."""
    devices = [f"m-{number}" for number in range(50)]
    low = rule(start_delay_s=5, end_delay_s=5)
    directory = Devices(*map(target, devices))
    judge = Engine(book=book(low), directory=directory, sites=Sites(directory), limits=Limits())
    rows = [
        (device, float(at), dict.fromkeys(POINTS, 150.0 if 10 <= at < 30 else 230.0), frozenset[str]())
        for at in range(60)
        for device in devices
    ]
    changes = Changes()
    judge.judge(reports(rows), changes)
    told = [
        (step.device_id, step.phase.value, seconds(step.began_us), seconds(step.ended_us)) for step in changes.steps
    ]
    assert sorted(told, key=str) == sorted(
        [(device, "begin", 10, None) for device in devices] + [(device, "end", 10, 30) for device in devices], key=str
    )


@settings(max_examples=150, deadline=None)
@given(lines(), st.sampled_from((3, 5, 20)), st.sampled_from((2, 5, 20)), st.randoms(use_true_random=False))
def test_looking_at_the_clock_more_often_changes_nothing(
    history: list[Line], start_delay: int, end_delay: int, random: object
) -> None:
    """With the clock as honest as event time, ticks bring news earlier and never other news."""
    ordered = sorted(
        {(line.device, line.at): line for line in history if line.at <= line.received + 300}.values(),
        key=lambda line: line.at,
    )
    pair = (start_delay, end_delay)
    plain = engine(pair)
    plain._limits = Limits(tick_grace_us=0)
    ticking = engine(pair)
    ticking._limits = Limits(tick_grace_us=0)
    told: list[list[tuple[str, ...]]] = [[], []]
    horizon = max((line.at for line in ordered), default=0) + 100
    clock = ordered[0].at if ordered else 0
    for line in ordered:
        batch = reports([(line.device, line.at, dict(line.points), line.bad)])
        while clock < line.at - 1:
            clock += random.randint(1, 5)  # type: ignore[attr-defined]
            clock = min(clock, line.at - 1)
            note(ticking, told[1], lambda changes, at=clock: ticking.tick(0, us(at), changes))
        note(ticking, told[1], lambda changes, rows=batch: ticking.judge(rows, changes))
        note(plain, told[0], lambda changes, rows=batch: plain.judge(rows, changes))
    for judge, list_ in ((plain, told[0]), (ticking, told[1])):
        note(judge, list_, lambda changes, one=judge: one.tick(0, us(horizon), changes))
    assert sorted(told[0]) == sorted(told[1])


def note(judge: Engine, told: list[tuple[str, ...]], act: object) -> None:
    changes = Changes()
    act(changes)  # type: ignore[operator]
    told.extend(
        (step.device_id, step.rule_id, step.phase.value, str(seconds(step.began_us)), str(seconds(step.ended_us)))
        for step in changes.steps
    )
