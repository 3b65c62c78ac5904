"""Targets that results of carbon exceed become findings.

Results are keyed by their node and findings by their site, so this is a group of its own: what it finds goes onto the
topic of findings, where the process that holds the site makes the alarm.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from libs.common import metrics
from libs.common.bus import outbox, topics
from libs.common.bus.port import Received
from libs.common.contracts.alarm import Condition, ConditionKind
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.contracts.carbon import CarbonResult
from libs.common.db import WriteConn
from services.alarm import bus
from services.alarm.store import targets as targets_store
from services.alarm.store.targets import Key, TargetState

TARGETS_GROUP = "alarm.targets"
LATE_AFTER = timedelta(days=35)
"""A result of a period that ended longer ago is history: a month is settled within the next one."""

RESULTS = metrics.counter("alarm_target_results_total", "Results with a target, by what became of them", ("outcome",))


class TargetsHandler:
    """Finds targets that are exceeded, and those that are met again; keeps nothing in memory."""

    def __init__(self, *, wake: Callable[[], None]) -> None:
        """Keep whom to wake after a commit that published something."""
        self._wake = wake
        self._told = False

    async def load(self, conn: WriteConn, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""

    def drop(self, partitions: frozenset[int]) -> None:
        """Nothing is kept in memory."""
        self._told = False

    async def handle(self, conn: WriteConn, batch: Sequence[Received]) -> None:
        """Publish what begins and ends to be exceeded.

        A period's highest version holds; what an older period comes to is no news once a younger one is known.

        Raises:
            PoisonMessage: A message is no result.
        """
        found = [(received, bus.read_result(received)) for received in batch]
        judged = [(received, result) for received, result in found if result.target_exceeded is not None]
        known = await targets_store.fetch_states(conn, {_key(result) for _, result in judged})
        changed: dict[Key, tuple[int, TargetState]] = {}
        messages = []
        for received, result in judged:
            key = _key(result)
            before = known.get(key)
            outcome = _outcome(result, before, received.appended_at)
            RESULTS.labels(outcome).inc()
            if outcome != "judged":
                continue
            exceeded = result.target_exceeded is True
            known[key] = TargetState(result.period.start, result.version, exceeded)
            changed[key] = (received.partition, known[key])
            if exceeded or (before is not None and before.exceeded):
                messages.append(bus.condition_message(_condition(result), received.appended_at))
        await targets_store.put_states(conn, changed)
        await outbox.put(conn, messages)
        self._told = bool(messages)

    def committed(self) -> None:
        """Let the relay publish at once."""
        if self._told:
            self._wake()
        self._told = False


TARGETS_TOPICS = (topics.CARBON_RESULTS,)


def _key(result: CarbonResult) -> Key:
    return result.node, result.measure, result.period.granularity.value


def _outcome(result: CarbonResult, before: TargetState | None, came_at: datetime) -> str:
    if came_at - result.period.end > LATE_AFTER:
        return "late"
    start, version = result.period.start, result.version
    if before is not None and (start, version) <= (before.period_start, before.version):
        return "old"
    return "judged"


def _condition(result: CarbonResult) -> Condition:
    exceeded = result.target_exceeded is True
    value = "?" if result.value is None else f"{result.value:g}"
    limit = "?" if result.target is None else f"{result.target:g}"
    period = f"{result.period.granularity.value} {result.period.start.isoformat()}"
    words, words_zh = ("exceeds", "超过") if exceeded else ("is within", "未超过")
    return Condition(
        site_id=result.site_id or PLATFORM_SITE,
        source="alarm",
        kind=ConditionKind.TARGET_EXCEEDED.value,
        subject="/".join(_key(result)),
        phase=Phase.BEGIN if exceeded else Phase.END,
        detail=f"{result.node}: {result.measure} of {period} is {value} {result.unit}, "
        f"which {words} the target of {limit} {result.unit}",
        detail_zh=f"{result.node}:{period} 的 {result.measure} 为 {value} {result.unit},"
        f"{words_zh}目标 {limit} {result.unit}",
    )
