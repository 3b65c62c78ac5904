"""What a supervision centre may order: nothing, but for what is written down for its connection.

A permit names kinds of orders and points. It says how a number on the wire is read (which value is OFF), for how long
an OFF lasts at most, and what the centre is told: that the order was taken, or that it was proven. Which loads the
centre may switch, how many and how often is said once more, by control, where it is a caller like any upstream app.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from services.export.dialects.messages import PointOrder, PointType
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping

ANSWER_AT_MOST_S = 4.5
"""Centres were seen to wait 5 s for an answer (dialect M counts an order as failed then); ours is there before. [s]"""
LONGEST_OFF_S = 7 * 86400.0
"""Bound of ``off_at_most_s``, as control has it for upstream apps. [s]"""

_RELAY = re.compile(r"^relay_([1-9][0-9]?)_state$")


class OrderKind(StrEnum):
    """What an order does."""

    SWITCH_OFF = "switch_off"
    SWITCH_ON = "switch_on"
    ADJUST = "adjust"
    """Remote adjustment: a set point inside a device."""
    THRESHOLD = "threshold"
    FILE_ACCOUNT = "file_account"
    DEVICE_CONFIG = "device_config"
    """Names, details, levels and network alarm ids of mapped devices; thresholds need their own permit besides."""
    LOGIN_ACCOUNT = "login_account"
    """The account that the connection's units log in with."""


class Success(StrEnum):
    """What "success" tells the centre about a switching."""

    ACCEPTED = "accepted"
    """Control has taken the order and sees to it."""
    VERIFIED = "verified"
    """The feedback has proven it within the time of the answer; a failure then means "not proven yet"."""


class Refused(StrEnum):
    """Why an order is not carried out; a centre is only told that it is not."""

    NOT_PERMITTED = "not_permitted"
    NOT_MAPPED = "not_mapped"
    NO_NUMBER = "no_number"
    NO_MEANING = "no_meaning"
    """The value is neither that of OFF nor that of ON."""
    NO_LOAD = "no_load"
    """No load, or more than one, hangs on the mapped point."""
    CONTRADICTORY = "contradictory"
    """The message orders two different values for the point."""
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRule:
    """Points that may be ordered, and how their values are read. ``*`` and ``?`` stand for any text and character."""

    device: str = "*"
    """Device id at the centre."""
    point: str = "*"
    off_value: float | None = 0.0
    """The value that means OFF; None when the point cannot switch off."""
    on_value: float | None = 1.0
    load_id: str | None = None
    """The load that is meant; None is the one that hangs on the mapped point."""
    unit: str | None = None
    """Unit in which the centre writes the threshold; checked by alarm, never converted. None is not checked."""

    def covers(self, device_id: str, point_id: str) -> bool:
        """Return whether the rule speaks of the point."""
        return fnmatchcase(device_id, self.device) and fnmatchcase(point_id, self.point)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permits:
    """All that one centre may order; the default is nothing."""

    kinds: frozenset[OrderKind] = frozenset()
    points: tuple[PointRule, ...] = ()
    """The first that covers a point counts; what none covers is refused."""
    off_at_most_s: float | None = None
    """An OFF of this centre ends so long after it was ordered; without it no OFF is permitted. [s]"""
    success: Success = Success.ACCEPTED
    answer_within_s: float = 4.0
    """The centre has its answer within this. [s]"""
    same_within_s: float = 60.0
    """The same order again within this is the same command. [s]"""

    def rule_for(self, device_id: str, point_id: str) -> PointRule | None:
        """Return the rule that counts for a point."""
        return next((rule for rule in self.points if rule.covers(device_id, point_id)), None)

    def as_json(self) -> dict[str, Any]:
        """Return the permits as they are stored and shown."""
        return {
            "kinds": sorted(self.kinds),
            "points": [asdict(rule) for rule in self.points],
            "off_at_most_s": self.off_at_most_s,
            "success": self.success.value,
            "answer_within_s": self.answer_within_s,
            "same_within_s": self.same_within_s,
        }

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "Permits":
        """Read what ``as_json`` has written."""
        return cls(
            kinds=frozenset(OrderKind(kind) for kind in raw["kinds"]),
            points=tuple(PointRule(**rule) for rule in raw["points"]),
            off_at_most_s=raw["off_at_most_s"],
            success=Success(raw["success"]),
            answer_within_s=raw["answer_within_s"],
            same_within_s=raw["same_within_s"],
        )


NOTHING = Permits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """An order that may be carried out."""

    order: PointOrder
    kind: OrderKind
    value: float
    point: MappedPoint
    rule: PointRule


Judged = Wish | Refused


def judge_switching(orders: Iterable[PointOrder], mapping: UnitMapping, permits: Permits) -> list[Judged]:
    """Return what each order to set a point means, or why it is refused; in their order."""
    return [_switching(order, mapping, permits) for order in _consistent(orders)]


def judge_thresholds(orders: Iterable[PointOrder], mapping: UnitMapping, permits: Permits) -> list[Judged]:
    """Return what each order to set a threshold means, or why it is refused; in their order."""
    return [_threshold(order, mapping, permits) for order in _consistent(orders)]


def _consistent(orders: Iterable[PointOrder]) -> list[PointOrder | Refused]:
    values: dict[tuple[str, str], set[float | None]] = {}
    listed = list(orders)
    for order in listed:
        values.setdefault((order.device.device_id, order.point_id), set()).add(order.value)
    return [
        Refused.CONTRADICTORY if len(values[order.device.device_id, order.point_id]) > 1 else order for order in listed
    ]


def _switching(order: PointOrder | Refused, mapping: UnitMapping, permits: Permits) -> Judged:
    if isinstance(order, Refused):
        return order
    rule = permits.rule_for(order.device.device_id, order.point_id)
    if rule is None or not permits.kinds & {OrderKind.SWITCH_OFF, OrderKind.SWITCH_ON, OrderKind.ADJUST}:
        return Refused.NOT_PERMITTED
    point = _mapped(mapping, order)
    if point is None or point.type not in (PointType.DO, PointType.AO) or point.kind is not SourceKind.POINT:
        return Refused.NOT_MAPPED
    if order.value is None:
        return Refused.NO_NUMBER
    kind: OrderKind | None = OrderKind.ADJUST
    if point.type is PointType.DO:
        kind = {rule.on_value: OrderKind.SWITCH_ON, rule.off_value: OrderKind.SWITCH_OFF}.get(order.value)
    if kind is None:
        return Refused.NO_MEANING
    if kind not in permits.kinds or (kind is OrderKind.SWITCH_OFF and permits.off_at_most_s is None):
        return Refused.NOT_PERMITTED
    return Wish(order=order, kind=kind, value=order.value, point=point, rule=rule)


def _threshold(order: PointOrder | Refused, mapping: UnitMapping, permits: Permits) -> Judged:
    if isinstance(order, Refused):
        return order
    rule = permits.rule_for(order.device.device_id, order.point_id)
    if rule is None or OrderKind.THRESHOLD not in permits.kinds:
        return Refused.NOT_PERMITTED
    point = _mapped(mapping, order)
    if point is None or point.kind is not SourceKind.SIGNAL:
        return Refused.NOT_MAPPED
    if order.value is None:
        return Refused.NO_NUMBER
    return Wish(order=order, kind=OrderKind.THRESHOLD, value=order.value, point=point, rule=rule)


def _mapped(mapping: UnitMapping, order: PointOrder) -> MappedPoint | None:
    known = {device.ref.device_id: device.ref for device in mapping.devices}.get(order.device.device_id)
    if known is None or order.device.device_code not in ("", known.device_code):
        return None
    return next(
        (
            point
            for point in mapping.points
            if (point.sc_device_id, point.point_id) == (order.device.device_id, order.point_id)
        ),
        None,
    )


def channel_of(source: str) -> int | None:
    """Return which channel of a relay board a canonical point is of; None for the device itself."""
    found = _RELAY.match(source)
    return None if found is None else int(found[1])


class OrderState(StrEnum):
    """How far a switching order of a centre is, as far as export knows."""

    OPEN = "open"
    """Written down; control has not answered, or it is not known what."""
    TAKEN = "taken"
    REFUSED = "refused"
    OVER = "over"
    """Its command has ended, well or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchingOrder:
    """A switching or adjustment that a centre has ordered; its id is the idempotency key at control."""

    id: str
    connection_id: str
    unit_key: int
    unit_id: str
    site_id: str | None
    sc_device_id: str
    point_id: str
    kind: OrderKind
    value: float
    load_id: str | None
    """Of a switching."""
    device_id: str | None
    """Of an adjustment, with ``setting``, the canonical point."""
    setting: str | None
    restore_at: datetime | None
    peer: str
    received_at: datetime
    state: OrderState = OrderState.OPEN
    group_id: str | None = None
    """Control's command group, or its order of an adjustment."""
    reason: str | None = None
    repeats: int = 0


def is_repeat(last: SwitchingOrder, wish: Wish, load_id: str | None, now: datetime, permits: Permits) -> bool:
    """Return whether an order is the point's last one said again, and so the same command.

    An OFF stays the same one within the window, whatever became of its command. An ON and an adjustment are the same
    one only while the command runs: one that comes later asks again. What control refused was never a command.
    """
    if (last.kind, last.value, last.load_id) != (wish.kind, wish.value, load_id) or last.state is OrderState.REFUSED:
        return False
    if wish.kind is OrderKind.ADJUST and (last.device_id, last.setting) != (wish.point.device_id, wish.point.source):
        return False
    if wish.kind is not OrderKind.SWITCH_OFF and last.state is OrderState.OVER:
        return False
    return timedelta(0) <= now - last.received_at < timedelta(seconds=permits.same_within_s)
