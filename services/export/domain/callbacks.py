"""Callbacks: what is told to whom, and what follows from the answer.

An *endpoint* is an address that somebody wants to be called at, with a choice of events. A *news* is one event in the
shape that endpoints choose from, whatever topic it came from. Each endpoint has its own queue. Within it the news of
one *resource* (a load, an alarm) go one after the other, numbered; those of different resources do not wait for each
other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum

from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, Diagnosis
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.delivery import DeliveryState


class NewsType(StrEnum):
    """What can be subscribed to; with ``wattring.`` before and ``.v1`` behind it is the type of the CloudEvent."""

    COMMAND_PROGRESS = "command.progress"
    COMMAND_RESULT = "command.result"
    OCCURRENCE_PROGRESS = "occurrence.progress"
    OCCURRENCE_RESULT = "occurrence.result"
    OCCURRENCE_OVERDUE = "occurrence.overdue"
    PLAN_DRAFT = "plan.draft"
    PLAN_APPROVED = "plan.approved"
    PLAN_ACTIVE = "plan.active"
    PLAN_ENDED = "plan.ended"
    ALARM_BEGIN = "alarm.begin"
    ALARM_UPDATE = "alarm.update"
    ALARM_END = "alarm.end"
    DIAGNOSIS_BEGIN = "diagnosis.begin"
    DIAGNOSIS_UPDATE = "diagnosis.update"
    DIAGNOSIS_END = "diagnosis.end"
    ATTESTATION_HEAD = "attestation.head"
    """For witnesses: a signed head of the attestation log. It is of no site and tells of none, so every endpoint that
    has chosen it is told."""
    DEVICE_STATUS = "device.status"
    """The latest state of a device: whether it can be heard, its radio link, battery and SIM."""
    READINGS_BATCH = "readings.batch"
    """What devices of a site reported; many in one callback, as all that end in ``.batch``."""
    BACKFILL_BATCH = "backfill.batch"
    """Reports that came late: what a line had kept, what was imported or written by hand."""
    INTERVALS_BATCH = "intervals.batch"
    """Consumption of circuits of a site."""
    CARBON_RESULT = "carbon.result"
    """A figure of a node; of no site where the node lies above one: who is limited to some is not told."""
    REPORT_FINISHED = "report.finished"
    """A report of carbon was made and filed. It is of no site: who is limited to some is not told."""
    TEST = "callback.test"
    """Of the test button; goes to every endpoint, whatever it has chosen."""

    @property
    def ce_type(self) -> str:
        """The type of the CloudEvent."""
        return f"wattring.{self.value}.v1"

    @property
    def is_ordered_by_somebody(self) -> bool:
        """Whether it comes of an order, so that the one who gave it can be chosen."""
        return self.value.startswith(("command.", "occurrence.", "plan."))

    @property
    def is_of_points(self) -> bool:
        """Whether it carries readings, of which points can be chosen."""
        return self in (NewsType.READINGS_BATCH, NewsType.BACKFILL_BATCH)

    @property
    def is_of_devices(self) -> bool:
        """Whether it is said by devices, so that kinds of devices can be chosen."""
        return self.is_of_points or self is NewsType.DEVICE_STATUS


TYPES = frozenset(NewsType) - {NewsType.TEST}
"""What can be chosen."""


def types_of(*subjects: str) -> frozenset[NewsType]:
    """Return the types that are news of these, such as ``alarm``."""
    return frozenset(each for each in NewsType if each.value.partition(".")[0] in subjects)


class Lane(IntEnum):
    """What is sent first, and tried again sooner; the lower number is."""

    FAST = 0
    """Alarms of level 1, and wake-ups that failed: somebody has to act."""
    NORMAL = 1
    BULK = 2
    """Batches: they go when nothing else is to be sent, and are kept for a shorter time."""


@dataclass(frozen=True, slots=True)
class News:
    """One event, as endpoints choose from it and are told it."""

    event_id: str
    """The same on the topic, in the body and as ``webhook-id``."""
    type: NewsType
    source: str
    """Who said it, such as ``control``."""
    resource: str
    """What it is news of, such as ``load/l-1``: the order is kept within it."""
    site_id: str
    at: datetime
    data: bytes
    """The payload as it stood on the topic: JSON."""
    lane: Lane = Lane.NORMAL
    actor: str | None = None
    """Who ordered what this came of."""
    device_id: str | None = None
    """Which device said it, where kinds of devices can be chosen."""
    site_ids: tuple[str, ...] = ()
    """All its sites, where it concerns several: who hears of one of them is told."""
    hushed: bool = False
    """Something else explains it: told only to who has been told of the resource before."""
    traceparent: str | None = None


def type_of_control(event: ControlEvent) -> NewsType:
    """Return what an event of a command or of an occurrence is news of."""
    if isinstance(event.state, CommandState):
        return NewsType.COMMAND_RESULT if event.state.is_final else NewsType.COMMAND_PROGRESS
    match event.state:
        case OccurrenceState.OVERDUE:
            return NewsType.OCCURRENCE_OVERDUE
        case OccurrenceState.AWAKE | OccurrenceState.SKIPPED | OccurrenceState.CALLED_OFF:
            return NewsType.OCCURRENCE_RESULT
        case _:
            return NewsType.OCCURRENCE_PROGRESS


_NOT_AWAKE = frozenset({CommandState.FAILED, CommandState.EXPIRED, CommandState.REJECTED, CommandState.UNKNOWN})


def lane_of_control(event: ControlEvent) -> Lane:
    """Return the fast lane for a wake-up that failed or is late."""
    failed = event.action is CommandAction.CLOSE and event.state in _NOT_AWAKE
    return Lane.FAST if failed or event.state is OccurrenceState.OVERDUE else Lane.NORMAL


def resource_of_control(event: ControlEvent) -> str:
    """Return the load, or the device where it feeds none."""
    return f"device/{event.device_id}" if event.load_id is None else f"load/{event.load_id}"


def type_of_alarm(event: AlarmEvent) -> NewsType:
    """Return what a step in an alarm's life is news of."""
    return NewsType(f"alarm.{event.phase.value}")


def lane_of_alarm(event: AlarmEvent) -> Lane:
    """Return the fast lane for level 1."""
    return Lane.FAST if event.level is AlarmLevel.CRITICAL else Lane.NORMAL


def type_of_diagnosis(event: Diagnosis) -> NewsType:
    """Return what a step in a diagnosis' life is news of."""
    return NewsType(f"diagnosis.{event.phase.value}")


class EndpointState(StrEnum):
    """Whether an endpoint is called."""

    ACTIVE = "active"
    PAUSED = "paused"
    """By a person: its queue grows and waits."""
    DISABLED = "disabled"
    """It has said 410, or failed for days: nothing is queued for it until somebody resumes it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which events an endpoint wants; None is all."""

    types: frozenset[NewsType]
    sites: tuple[str, ...] | None = None
    """Ids of sites, or ``region:<id>``."""
    actors: tuple[str, ...] | None = None
    """Of commands, occurrences and plans: only what these have ordered, such as ``key:abc``."""
    points: tuple[str, ...] | None = None
    """Of readings: only these points."""
    kinds: tuple[str, ...] | None = None
    """Of readings and states of devices: only devices of these kinds, such as ``meter_3p``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address that is called."""

    id: str
    name: str
    owner: str
    """Who is responsible, as the audit log names people and keys."""
    limits: tuple[str, ...] | None
    """What of the site tree the owner could see when it was last changed; nothing else is told, whatever is chosen."""
    url: str
    choice: Choice
    concurrency: int
    """Calls at the same time."""
    timeout_s: float
    state: EndpointState = EndpointState.ACTIVE
    state_reason: str | None = None
    failures: int = 0
    """Attempts that failed since the last one that did not."""
    failing_since: datetime | None = None
    not_before: datetime | None = None
    """Nothing is sent sooner: it failed too often, or asked for a pause."""
    error: str | None = None
    """What the last failure was."""
    secrets: bytes = field(default=b"", repr=False)
    """As stored: encrypted."""
    created_at: datetime
    updated_at: datetime


def hears_of(endpoint: Endpoint, places: Collection[str]) -> bool:
    """Return whether an endpoint has chosen a place, and its owner may see it.

    Args:
        endpoint: The endpoint.
        places: A site, and ``region:<id>`` of each region that it lies in.
    """
    return all(
        limits is None or any(one in places for one in limits) for limits in (endpoint.choice.sites, endpoint.limits)
    )


def wants(endpoint: Endpoint, news: News, places: Collection[str], kind: str | None = None) -> bool:
    """Return whether an endpoint is told some news.

    Args:
        endpoint: The endpoint.
        news: What there is; no batch, see ``callbacks/batches.py``.
        places: The news' sites, and ``region:<id>`` of each region that they lie in.
        kind: Kind of the device that said it, None where there is none or nobody knows.
    """
    choice = endpoint.choice
    if endpoint.state is EndpointState.DISABLED or news.type not in choice.types:
        return False
    if news.type is NewsType.ATTESTATION_HEAD:
        return True
    if not hears_of(endpoint, places):
        return False
    if news.type.is_of_devices and choice.kinds is not None and kind not in choice.kinds:
        return False
    return not news.type.is_ordered_by_somebody or choice.actors is None or news.actor in choice.actors


@dataclass(frozen=True, slots=True)
class OwnerChange:
    """What became of the owner of endpoints."""

    owner: str
    """Such as ``key:abc``."""
    ended: str | None = None
    """Why nothing is told any more; None while the owner goes on."""
    limits: tuple[str, ...] | None = None
    """What of the site tree an owner who goes on may see; None is all."""


def owner_change_of(action: str, subject: str, after: Mapping[str, object] | None) -> OwnerChange | None:
    """Return what an entry of the gateway's audit log means for the endpoints of its subject; None for nothing."""
    if action == "api_key.revoke":
        return OwnerChange(subject, ended="the API key of its owner was revoked")
    if action != "user.change" or after is None or "sites" not in after:
        return None
    if after.get("disabled") is True:
        return OwnerChange(subject, ended="the account of its owner was closed")
    sites = after["sites"]
    return OwnerChange(subject, limits=tuple(str(each) for each in sites) if isinstance(sites, list) else None)


# ---- what follows from an attempt ---------------------------------------------------------------------

RETRY_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Waits after the first, second … attempt; after the last one nobody tries any more. Three days in all. [s]"""
FAST_RETRY_S = (2.0, 5.0, 15.0, 30.0, 60.0, *RETRY_S[1:])
"""The same in the fast lane. [s]"""
JITTER_SHARE = 0.25
"""A wait is longer by up to this share, so that those who failed together do not come back together."""
REFUSALS = 5
"""A receiver that has read something and said no so often means it."""
BREAKER_FAILURES = 5
"""So many failures in a row open the breaker: nothing but a probe now and then is sent."""
PROBE_FIRST_S = 5.0
PROBE_CAP_S = 60.0
"""Waits between probes double up to this: what is urgent waits for no more after the receiver is back. [s]"""
RETRY_AFTER_CAP_S = 3600.0
"""A receiver that asks for a longer pause is asked again after this. [s]"""
DISABLED_AFTER = timedelta(days=5)
"""An endpoint that has only failed for so long is disabled."""


class Verdict(StrEnum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    """The receiver answered 2xx."""
    REFUSED = "refused"
    """It answered that the request is wrong (4xx), or sent us elsewhere (3xx)."""
    FAILED = "failed"
    """It answered that it is not able to (5xx, 408, 425, 429), or there was no connection."""
    TIMEOUT = "timeout"
    NOT_ALLOWED = "not_allowed"
    """The address lies inside, and no operator allowed it; nothing was sent."""
    GONE = "gone"
    """It answered 410: nobody wants this any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt showed."""

    verdict: Verdict
    took_s: float
    status: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


_ABLE_LATER = frozenset({408, 425, 429})


def verdict_of(status: int) -> Verdict:
    """Return what an HTTP status means."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status == 410:
        return Verdict.GONE
    return Verdict.REFUSED if 300 <= status < 500 and status not in _ABLE_LATER else Verdict.FAILED


def wait_s(attempts: int, lane: Lane) -> float | None:
    """Return how long to wait after so many attempts, None when there is none to come. [s]"""
    table = FAST_RETRY_S if lane is Lane.FAST else RETRY_S
    return table[attempts - 1] if attempts <= len(table) else None


@dataclass(frozen=True, slots=True)
class Next:
    """What an attempt makes of a delivery."""

    state: DeliveryState
    wait_s: Mapping[Lane, float] = field(default_factory=dict)
    """Until the next attempt, by the lane that the queue is in by then; none for one that is over."""

    @property
    def is_over(self) -> bool:
        """Whether the next one of the resource may go."""
        return self.state in (DeliveryState.DELIVERED, DeliveryState.GIVEN_UP)


def after(attempts: int, lane: Lane, outcome: Outcome, *, jitter: float) -> Next:
    """Return what becomes of a delivery.

    Args:
        attempts: How many have been made, this one included.
        lane: The lane that its queue was in.
        outcome: What this one showed.
        jitter: Between 0 and 1.
    """
    if outcome.verdict is Verdict.DELIVERED:
        return Next(DeliveryState.DELIVERED)
    refused = outcome.verdict is Verdict.REFUSED
    if wait_s(attempts, lane) is None or (refused and attempts >= REFUSALS):
        return Next(DeliveryState.GIVEN_UP)
    # Meanwhile something urgent may have come behind it, and then its queue is in the other lane.
    waits = {each: wait_s(attempts, each) or RETRY_S[-1] for each in Lane}
    longer, at_least = 1.0 + JITTER_SHARE * jitter, outcome.retry_after_s or 0.0
    return Next(
        DeliveryState.REFUSED if refused else DeliveryState.RETRYING,
        {each: max(wait * longer, at_least) for each, wait in waits.items()},
    )


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint is doing."""

    state: EndpointState
    failures: int = 0
    failing_since: datetime | None = None
    not_before: datetime | None = None
    state_reason: str | None = None
    error: str | None = None


def health_after(before: Health, outcomes: Sequence[Outcome], now: datetime, *, jitter: float) -> Health:
    """Return how an endpoint is doing after attempts, in the order in which they ended.

    Args:
        before: How it was doing.
        outcomes: What they showed.
        now: When.
        jitter: Between 0 and 1.
    """
    failures, since, not_before, error = before.failures, before.failing_since, before.not_before, before.error
    state, reason = before.state, before.state_reason
    for outcome in outcomes:
        if outcome.verdict is Verdict.DELIVERED:
            failures, since, not_before = 0, None, None
            continue
        failures += 1
        since = since or now
        error = outcome.error
        if outcome.retry_after_s is not None:
            not_before = now + timedelta(seconds=outcome.retry_after_s)
        if outcome.verdict is Verdict.GONE and state is EndpointState.ACTIVE:
            state, reason = EndpointState.DISABLED, "the receiver answered 410: it does not want this any more"
    if failures >= BREAKER_FAILURES:
        probe_s = min(PROBE_FIRST_S * 2.0 ** min(failures - BREAKER_FAILURES, 10), PROBE_CAP_S)
        probe_at = now + timedelta(seconds=probe_s * (1.0 + JITTER_SHARE * jitter))
        not_before = probe_at if not_before is None else max(not_before, probe_at)
    if state is EndpointState.ACTIVE and since is not None and now - since >= DISABLED_AFTER:
        state = EndpointState.DISABLED
        reason = f"nothing was taken since {since.isoformat()}"
    return Health(state, failures, since, not_before, reason, error)


def free_places(endpoint: Endpoint, busy: int, now: datetime) -> int:
    """Return how many calls may begin now, besides those that are under way."""
    if endpoint.state is not EndpointState.ACTIVE or (endpoint.not_before is not None and endpoint.not_before > now):
        return 0
    places = 1 if endpoint.failures >= BREAKER_FAILURES else endpoint.concurrency
    return max(places - busy, 0)


def is_open(endpoint: Endpoint) -> bool:
    """Return whether the breaker keeps calls back."""
    return endpoint.failures >= BREAKER_FAILURES
