"""The watchdog's work: look, judge, wake, call. Everything it must not forget goes through the journal first."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from libs.common.metrics import counter, gauge
from services.control.domain.watch import Judgement, Lease, Moment, Seen, Verdict, judge, write_lease
from services.control.watchdog.journal import Journal
from services.control.watchdog.settings import WatchdogSettings

logger = logging.getLogger(__name__)

LEASES = gauge("watchdog_leases", "OFF leases that the watchdog knows")
WAKING = gauge("watchdog_waking", "Loads that the watchdog is waking")
OVERDUE = gauge("watchdog_overdue_wakeups", "Loads that should be awake and are not, as the watchdog sees it")
DOORS_SILENT = gauge("watchdog_doors_silent", "Direct doors that did not answer the last look")
CALLS = counter("watchdog_calls_total", "Texts to the webhook while nobody takes the watchdog's alarms", ("outcome",))
ATTEMPTS = counter("watchdog_attempts_total", "Attempts to wake a load", ("way", "outcome"))


NAMED_IN_CALL = 20
"""Loads that a call names; of the others it says how many."""


class StaleEpoch(Exception):
    """A control process that has been replaced is still speaking."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the direct doors show."""

    seen: Mapping[str, Seen]
    """By load."""
    problems: tuple[str, ...]
    """Doors that did not answer, and why."""
    any_answered: bool


class Reach(Protocol):
    """What the watchdog can call (``calls.py``)."""

    async def look(self) -> Look:
        """Return what the doors show and why doors did not answer."""

    async def wake(self, load: Judgement, request_id: str, reason: str, released_trip: int | None) -> str:
        """Ask the doors for an ON."""

    async def ask_control(self, load_ids: Sequence[str], request_id: str, reason: str) -> None:
        """Ask control to wake loads."""

    async def tell_control(self, findings: Sequence[Mapping[str, Any]]) -> None:
        """Leave findings with control."""

    async def call_person(self, text: str) -> None:
        """Tell a person without the platform."""


@dataclass(slots=True)
class Waking:
    """A load that is being woken."""

    since: float
    """Monotonic time at which it was found. [s]"""
    had_lease: bool
    attempts: int = 0
    next_at: float = 0.0
    busy: bool = False
    text: str = "overdue"


class Watchdog:
    """One watchdog; ``turn`` is called again and again."""

    def __init__(self, *, journal: Journal, reach: Reach, clock: Clock, boot: str, settings: WatchdogSettings) -> None:
        """Prepare; the journal is open."""
        self._journal = journal
        self._reach = reach
        self._clock = clock
        self._boot = boot
        self._settings = settings
        self._waking: dict[str, Waking] = {}
        self._wanted: dict[str, dict[str, Any]] = {}
        """Findings as they should be known outside, by ``<load>|<kind>``."""
        self._tell_at = float("-inf")
        self._tell_pause_s = settings.retry_first_s
        self._telling = False
        self._untold_since: float | None = None
        self._called: frozenset[str] = frozenset()
        """Findings that the last call was about."""
        self._call_at = self._call_not_before = float("-inf")
        self._calling = False
        self._silent_doors: tuple[str, ...] = ()
        self._started = clock.monotonic()
        self._heard_at = float("-inf")
        self._holding = False

    # What control says.

    def put_leases(self, body: Mapping[str, Any]) -> int:
        """Take what control tells, on disk before this returns; return how many leases stand.

        Raises:
            StaleEpoch: The sender is not the control process that spoke last.
            OSError: It could not be written; nothing was taken.
            KeyError, TypeError, ValueError: It is not understood; nothing was taken.
        """
        now = self._now()
        epoch = int(body["epoch"])
        recent = now.monotonic - self._heard_at < 60.0
        if epoch < self._journal.book.epoch and recent:
            # One that nobody has contradicted for a minute is the only one there is: a database that was restored.
            raise StaleEpoch(f"epoch {epoch} is older than {self._journal.book.epoch}")
        leases = [_lease(raw, now) for raw in body["leases"]]
        self._journal.append(
            {
                "kind": "put",
                "epoch": epoch,
                "complete": bool(body["complete"]),
                "leases": [write_lease(lease) for lease in leases],
                "ended": [str(command_id) for command_id in body["ended"]],
                "released_trips": {str(key): int(value) for key, value in body["released_trips"].items()},
            }
        )
        self._journal.book.epoch = epoch
        self._heard_at = now.monotonic
        LEASES.set(len(self._journal.book.leases))
        return len(self._journal.book.leases)

    def end_leases(self, load_ids: Sequence[str] | None) -> list[str]:
        """End the leases of loads, or of all, isolations apart: they are woken by the next turns.

        Returns:
            The loads.
        """
        wanted = None if load_ids is None else set(load_ids)
        ended = [
            lease
            for lease in self._journal.book.leases.values()
            if lease.isolation_id is None and (wanted is None or lease.load_id in wanted)
        ]
        self._journal.append({"kind": "ended", "command_ids": [lease.command_id for lease in ended]})
        for lease in ended:
            # Whoever asks for this does not wait for the next reading.
            self._waking.setdefault(lease.load_id, Waking(since=self._clock.monotonic(), had_lease=False))
        return sorted({lease.load_id for lease in ended})

    def describe(self) -> dict[str, Any]:
        """Return what the watchdog knows, for people."""
        now = self._now()
        return {
            "epoch": self._journal.book.epoch,
            "is_complete": self._journal.book.is_complete,
            "is_damaged": self._journal.is_damaged,
            "leases": [
                {**write_lease(lease), "is_valid": lease.is_valid(now, self._settings.margin_s)}
                for lease in self._journal.book.leases.values()
            ],
            "released_trips": self._journal.book.released_trips,
            "waking": {load_id: waking.attempts for load_id, waking in self._waking.items()},
            "findings": list(self._wanted.values()),
        }

    # One turn.

    async def turn(self, group: asyncio.TaskGroup) -> None:
        """Look once and start what is due; calls that take long run as tasks in ``group``."""
        look = await self._reach.look()
        self._note_doors(look.problems)
        now = self._now()
        self._remember(look.seen, now)
        if self._must_hold(now):
            return
        judgements = judge(self._journal.book, look.seen, self._waking, now, self._settings.margin_s)
        self._forget(judgements, now)
        to_wake = [one for one in judgements if one.verdict in (Verdict.WAKE, Verdict.CALL)]
        for judgement in to_wake:
            self._note_waking(judgement, now)
        due = [one for one in to_wake if one.verdict is Verdict.WAKE and self._is_due(one.load_id, now)]
        self._start(due, now, group, doors_answer=look.any_answered)
        self._set_findings(judgements, now)
        if not self._telling and self._untold() and now.monotonic >= self._tell_at:
            self._telling = True
            group.create_task(self._tell(), name="tell control")
        if self._must_call(now):
            self._calling = True
            group.create_task(self._call(now), name="call a person")
        WAKING.set(len(self._waking))

    def _must_hold(self, now: Moment) -> bool:
        """Return whether an isolation may be missing, so that nothing is woken yet; never for long."""
        unknown = not self._journal.book.is_complete or (self._journal.is_damaged and self._heard_at < 0)
        holding = unknown and now.monotonic - self._started < self._settings.first_word_s
        if holding and not self._holding:
            logger.warning(
                "waiting for control's list of isolations before waking anything",
                extra={"at_most_s": self._settings.first_word_s},
            )
        if self._holding and not holding and unknown:
            logger.error("control has not told what is isolated; waking what reads open all the same")
        self._holding = holding
        return holding

    def _remember(self, seen: Mapping[str, Seen], now: Moment) -> None:
        """Note when a leased breaker was first read open, and count again after a reboot."""
        records: list[dict[str, Any]] = []
        for lease in self._journal.book.leases.values():
            current = lease.rebooted(now)
            if current is not lease:
                records.append(
                    {
                        "kind": "rebooted",
                        "command_id": lease.command_id,
                        "boot": current.boot,
                        "deadline": current.deadline,
                    }
                )
            shown = seen.get(lease.load_id)
            if current.opened_at is None and shown is not None and shown.breaker == 0:
                records.append(
                    {
                        "kind": "opened",
                        "command_id": lease.command_id,
                        "boot": current.boot,
                        "monotonic": now.monotonic,
                        "deadline": current.deadline,
                    }
                )
        self._append(records)

    def _forget(self, judgements: Sequence[Judgement], now: Moment) -> None:
        """Let go of what is closed again."""
        over = {judgement.load_id for judgement in judgements if judgement.verdict is Verdict.OVER}
        ended = [lease.command_id for lease in self._journal.book.leases.values()
                 if lease.load_id in over and not lease.is_valid(now, self._settings.margin_s)]  # fmt: skip
        if ended:
            self._append([{"kind": "ended", "command_ids": ended}])
        for judgement in judgements:
            waking = self._waking.get(judgement.load_id)
            if waking is None or judgement.verdict not in (Verdict.FINE, Verdict.OVER):
                continue
            # Closed counts only if it was read after we began; off by right again counts at once.
            read_since = judgement.age_s is not None and judgement.age_s <= now.monotonic - waking.since
            if not judgement.is_closed or read_since:
                del self._waking[judgement.load_id]
                logger.info("awake", extra={"load_id": judgement.load_id, "attempts": waking.attempts})

    def _note_waking(self, judgement: Judgement, now: Moment) -> None:
        waking = self._waking.get(judgement.load_id)
        if waking is None:
            waking = Waking(since=now.monotonic, had_lease=judgement.had_lease)
            self._waking[judgement.load_id] = waking
            logger.warning(
                "open without a valid lease",
                extra={
                    "load_id": judgement.load_id,
                    "device_id": judgement.device_id,
                    "lease_ran_out": judgement.had_lease,
                    "verdict": judgement.verdict.value,
                    "why": judgement.text,
                },
            )
        waking.text = judgement.text

    def _is_due(self, load_id: str, now: Moment) -> bool:
        waking = self._waking[load_id]
        return not waking.busy and now.monotonic >= waking.next_at

    def _start(self, due: Sequence[Judgement], now: Moment, group: asyncio.TaskGroup, *, doors_answer: bool) -> None:
        free = self._settings.at_once - sum(waking.busy for waking in self._waking.values())
        taken = due[: max(free, 0)]
        for judgement in taken:
            waking = self._waking[judgement.load_id]
            waking.attempts += 1
            waking.busy = True
            pause_s = min(self._settings.retry_first_s * 2.0 ** (waking.attempts - 1), self._settings.retry_cap_s)
            waking.next_at = now.monotonic + pause_s
        if doors_answer:
            for judgement in taken:
                group.create_task(self._wake(judgement), name=f"wake {judgement.load_id}")
        elif taken:
            group.create_task(self._wake_by_control(list(taken)), name="wake by control")

    async def _wake(self, judgement: Judgement) -> None:
        """One attempt by the doors, and by control when they refuse."""
        waking = self._waking.get(judgement.load_id)
        attempts = 0 if waking is None else waking.attempts
        try:
            released = self._journal.book.released_trips.get(judgement.load_id)
            answer = await self._reach.wake(judgement, _request_id(), f"watchdog: {judgement.text}", released)
        except Unavailable as exc:
            ATTEMPTS.labels("door", "failed").inc()
            logger.warning(
                "waking by the direct door failed",
                extra={"load_id": judgement.load_id, "attempt": attempts, "reason": exc.message},
            )
            await self._wake_by_control([judgement])
        else:
            ATTEMPTS.labels("door", "taken").inc()
            logger.info("woken by the direct door", extra={"load_id": judgement.load_id, "answer": answer})
        finally:
            self._done([judgement])

    async def _wake_by_control(self, judgements: list[Judgement]) -> None:
        load_ids = [judgement.load_id for judgement in judgements]
        try:
            await self._reach.ask_control(load_ids, _request_id(), "watchdog: no direct door took the wake-up")
        except Unavailable as exc:
            ATTEMPTS.labels("control", "failed").inc()
            logger.error("waking by control failed", extra={"loads": len(load_ids), "reason": exc.message})
        else:
            ATTEMPTS.labels("control", "taken").inc()
            logger.info("control was asked to wake", extra={"loads": len(load_ids)})
        finally:
            self._done(judgements)

    def _done(self, judgements: Sequence[Judgement]) -> None:
        for judgement in judgements:
            waking = self._waking.get(judgement.load_id)
            if waking is not None:
                waking.busy = False

    # Findings.

    def _set_findings(self, judgements: Sequence[Judgement], now: Moment) -> None:
        wanted: dict[str, dict[str, Any]] = {}
        for judgement in judgements:
            waking = self._waking.get(judgement.load_id)
            if waking is None:
                continue
            stopped = judgement.verdict is Verdict.CALL
            late = waking.had_lease or now.monotonic - waking.since >= self._settings.alarm_after_s
            if not stopped and not late:
                continue
            kind = "wake_up_stopped" if stopped else "wake_up_overdue"
            wanted[f"{judgement.load_id}|{kind}"] = {
                "load_id": judgement.load_id, "site_id": judgement.site_id, "device_id": judgement.device_id,
                "kind": kind, "text": judgement.text, "detail": f"attempts: {waking.attempts}",
            }  # fmt: skip
        for key in wanted.keys() - self._wanted.keys():
            finding = wanted[key]
            logger.error("a load should be awake and is not", extra=dict(finding))
        self._wanted = wanted
        OVERDUE.set(len({finding["load_id"] for finding in wanted.values()}))

    def _untold(self) -> bool:
        told = self._journal.book.told
        return told != {key: finding["text"] for key, finding in self._wanted.items()}

    async def _tell(self) -> None:
        """Bring what control knows in line with what is so; with growing pauses while it does not answer."""
        now = self._now()
        told = self._journal.book.told
        begun = {key: finding for key, finding in self._wanted.items() if told.get(key) != finding["text"]}
        ended = [key for key in told if key not in self._wanted]
        at = now.wall.isoformat()
        findings = [{**finding, "phase": "begin", "at": at} for finding in begun.values()]
        findings += [_ended(key, told[key], at) for key in ended]
        try:
            await self._reach.tell_control(findings)
        except Unavailable as exc:
            self._tell_at = now.monotonic + self._tell_pause_s
            self._tell_pause_s = min(self._tell_pause_s * 2, self._settings.retry_cap_s)
            logger.error("cannot raise the alarm", extra={"findings": len(findings), "reason": exc.message})
            self._untold_since = now.monotonic if self._untold_since is None else self._untold_since
        else:
            self._untold_since = None
            self._tell_pause_s = self._settings.retry_first_s
            changes: dict[str, str | None] = {key: finding["text"] for key, finding in begun.items()}
            changes.update(dict.fromkeys(ended))
            self._append([{"kind": "told", "findings": changes}])
        finally:
            self._telling = False

    def _must_call(self, now: Moment) -> bool:
        """Return whether a person has to be called past the platform: about what is new, and again now and then."""
        if self._settings.call_url is None or self._calling or now.monotonic < self._call_not_before:
            return False
        if self._called and not self._wanted:
            return True  # they are all awake, whoever was called wants to know
        if self._untold_since is None or now.monotonic - self._untold_since < self._settings.call_after_s:
            return False
        return bool(self._wanted.keys() - self._called) or (bool(self._wanted) and now.monotonic >= self._call_at)

    async def _call(self, now: Moment) -> None:
        about = frozenset(self._wanted)
        try:
            await self._reach.call_person(_call_text(list(self._wanted.values())))
        except Unavailable as exc:
            CALLS.labels("failed").inc()
            logger.error("nobody could be called", extra={"findings": len(about), "reason": exc.message})
            self._call_not_before = now.monotonic + self._settings.retry_cap_s
        else:
            CALLS.labels("taken").inc()
            self._called = about
            self._call_at = now.monotonic + self._settings.call_again_s
        finally:
            self._calling = False

    # Small things.

    def _append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write what makes the watchdog exact; a full disk must not keep it from waking."""
        if not records:
            return
        try:
            self._journal.append(*records)
        except OSError as exc:
            logger.error("the journal cannot be written", extra={"reason": str(exc)})
            for record in records:
                self._journal.book.apply(record)

    def _note_doors(self, problems: tuple[str, ...]) -> None:
        DOORS_SILENT.set(len(problems))
        if problems != self._silent_doors:
            if problems:
                logger.warning("direct doors do not answer", extra={"doors": problems})
            else:
                logger.info("all direct doors answer")
        self._silent_doors = problems

    def _now(self) -> Moment:
        return Moment(wall=self._clock.now(), monotonic=self._clock.monotonic(), boot=self._boot)


def _lease(raw: Mapping[str, Any], now: Moment) -> Lease:
    restore_at = datetime.fromisoformat(str(raw["restore_at"]))
    if restore_at.tzinfo is None:
        raise ValueError("restore_at has no offset")
    channel = raw.get("channel")
    isolation_id = raw.get("isolation_id")
    return Lease(
        command_id=str(raw["command_id"]),
        load_id=str(raw["load_id"]),
        device_id=str(raw["device_id"]),
        channel=None if channel is None else int(channel),
        site_id=str(raw["site_id"]),
        restore_at=restore_at,
        off_at_most_s=float(raw["off_at_most_s"]),
        isolation_id=None if isolation_id is None else str(isolation_id),
        boot=now.boot,
        deadline=now.monotonic + float(raw["restore_in_s"]),
    )


def _call_text(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return what a person is told, in both languages."""
    if not findings:
        return "Wattring 看门狗：此前通知的负载已全部唤醒。 Watchdog: the loads of the last call are all awake."
    named = "; ".join(f"{one['load_id']} ({one['site_id'] or '?'}: {one['text']})" for one in findings[:NAMED_IN_CALL])
    more = f" … +{len(findings) - NAMED_IN_CALL}" if len(findings) > NAMED_IN_CALL else ""
    return (
        f"Wattring 看门狗：{len(findings)} 个负载应已唤醒但未唤醒，且平台告警不可用：{named}{more}。"
        f" Watchdog: {len(findings)} load(s) should be awake and are not, and the platform does not take this alarm."
    )


def _ended(key: str, text: str, at: str) -> dict[str, Any]:
    load_id, _, kind = key.rpartition("|")
    return {"load_id": load_id, "kind": kind, "text": text, "phase": "end", "at": at}


def _request_id() -> str:
    return f"watchdog-{uuid.uuid4()}"
