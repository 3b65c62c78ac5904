"""Silence of ingest itself, by our own clock."""

from collections.abc import Sequence
from datetime import timedelta

from libs.common.bus.port import BusUnavailable, Message
from libs.common.contracts.alarm import Condition, ConditionKind
from libs.common.testing.clock import FakeClock
from services.alarm.domain.beats import Beats
from services.alarm.domain.model import SECOND_US, to_us
from services.alarm.worker.ingest import IngestWatch


class Published:
    """What was published, or a bus that is away."""

    def __init__(self) -> None:
        self.findings: list[Condition] = []
        self.away = False

    async def publish(self, messages: Sequence[Message], *, timeout_s: float) -> None:
        if self.away:
            raise BusUnavailable("away")
        self.findings += [Condition.from_json(message.value or b"null") for message in messages]

    def told(self) -> list[tuple[str, str]]:
        found = [(finding.subject, finding.phase.value) for finding in self.findings]
        self.findings.clear()
        return found


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.bus = Published()
        self.beats = Beats(gone_us=900 * SECOND_US, deaf_us=30 * SECOND_US)
        self.behind = False
        self.watch = IngestWatch(
            bus=self.bus, clock=self.clock, beats=self.beats, caught_up=lambda: not self.behind, silent_s=30.0
        )

    def beat(self, instance: str, ago_s: float = 0.0) -> None:
        self.beats.note(0, instance, to_us(self.clock.now() - timedelta(seconds=ago_s)))


async def test_each_process_is_told_of_once_when_it_falls_silent_and_once_when_it_beats_again() -> None:
    scene = Scene()
    scene.beat("a")
    scene.beat("b", ago_s=31)
    await scene.watch.look()
    assert scene.bus.told() == [("a", "end"), ("b", "begin")]
    await scene.watch.look()
    assert scene.bus.told() == []
    scene.beat("b")
    await scene.watch.look()
    [finding] = scene.bus.findings
    assert (finding.kind, finding.subject, finding.phase.value) == (ConditionKind.INGEST_SILENT, "b", "end")
    assert finding.detail_zh is not None
    assert "心跳" in finding.detail_zh


async def test_a_silence_is_dated_at_the_last_heartbeat() -> None:
    scene = Scene()
    scene.beat("a", ago_s=60)
    await scene.watch.look()
    [finding] = scene.bus.findings
    assert finding.at == scene.clock.now() - timedelta(seconds=60)


async def test_old_heartbeats_of_a_backlog_say_nothing() -> None:
    scene = Scene()
    scene.behind = True
    scene.beat("a", ago_s=3600)
    await scene.watch.look()
    assert scene.bus.told() == []


async def test_what_could_not_be_published_is_said_later() -> None:
    scene = Scene()
    scene.beat("a", ago_s=60)
    scene.bus.away = True
    try:
        await scene.watch.look()
    except BusUnavailable:
        scene.bus.away = False
    await scene.watch.look()
    assert scene.bus.told() == [("a", "begin")]


async def test_a_process_that_was_taken_away_is_not_silent_for_ever() -> None:
    scene = Scene()
    scene.beat("a", ago_s=1000)
    scene.beat("b", ago_s=1000)
    await scene.watch.look()
    assert scene.bus.told() == [("a", "begin"), ("b", "begin")]
    for ago_s in range(990, -1, -10):
        scene.beat("a", ago_s=ago_s)
    await scene.watch.look()
    assert [(one.subject, one.phase.value) for one in scene.bus.findings] == [("a", "end"), ("b", "end")]
    assert "taken away" in (scene.bus.findings[1].detail or "")
    assert "撤下" in (scene.bus.findings[1].detail_zh or "")
