"""Control and alarm as export asks them in the name of a centre.

Each call has a bound in time; whoever is away, slow or unreadable is ``Unavailable``, and the order then counts as not
known to be taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from libs.common.client import ServiceClient
from libs.common.clock import Clock
from libs.common.contracts.control import CommandState
from libs.common.errors import Conflict, NotFound, PlatformError, Unavailable
from services.export.domain.permits import OrderKind, SwitchingOrder

ADJUST_WITHIN_S = 600.0
"""A device that sleeps is waited for so long with an adjustment. [s]"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a switching is."""

    group_id: str | None
    state: CommandState
    """``rejected`` when control has refused it."""
    reason: str
    """Guard or step, in one word; of a refusal with control's words."""


class Switcher(Protocol):
    """Who switches."""

    async def order(self, order: SwitchingOrder, *, timeout_s: float) -> Progress:
        """Have an order carried out; the same order again is not a second command.

        Raises:
            Unavailable: It is not known whether it was taken.
        """

    async def progress(self, order: SwitchingOrder, *, timeout_s: float) -> Progress:
        """Return how far an order that was taken is.

        Raises:
            Unavailable: Nobody can tell.
        """


@dataclass(frozen=True, slots=True)
class Held:
    """What holds for one signal of one device."""

    device_id: str
    signal: str
    threshold: float | None
    unit: str
    level: int | None
    hysteresis: float = 0.0
    start_delay_s: float = 0.0
    end_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ThresholdWish:
    """What a threshold shall be, and what goes with it; None leaves it as it is."""

    device_id: str
    signal: str
    threshold: float | None
    unit: str | None
    hysteresis: float | None = None
    start_delay_s: float | None = None
    end_delay_s: float | None = None


class ThresholdKeeper(Protocol):
    """Who keeps thresholds."""

    async def thresholds(self, device_id: str, *, timeout_s: float) -> Sequence[Held]:
        """Return the thresholds that hold for a device; none of a device that is not known there.

        Raises:
            Unavailable: Nobody can tell.
        """

    async def set_thresholds(
        self, connection_id: str, wishes: Sequence[ThresholdWish], *, timeout_s: float
    ) -> Sequence[str | None]:
        """Set thresholds; return of each why it was refused, None when it holds, in their order.

        Raises:
            Unavailable: It is not known what was done; the same wishes may be said again.
        """


class _Command(BaseModel):
    state: CommandState
    reason: str


class _Refusal(BaseModel):
    guard: str
    message: str = ""


class _Setting(BaseModel):
    setting_id: str
    state: CommandState
    reason: str


class _Group(BaseModel):
    group_id: str
    commands: list[_Command]
    refused: list[_Refusal]


class ControlSwitcher:
    """Control's commands, ordered by ``sc:<connection>``: the limits set there for this caller hold."""

    def __init__(self, client: ServiceClient, clock: Clock) -> None:
        """Keep the client, whose scope is that of an upstream app, and the clock."""
        self._client = client
        self._clock = clock

    async def order(self, order: SwitchingOrder, *, timeout_s: float) -> Progress:
        """See ``Switcher``."""
        reason = f"{order.unit_id}: {order.sc_device_id}/{order.point_id} = {order.value:g}"
        if order.kind is OrderKind.ADJUST:
            setting = {"device_id": order.device_id, "point": order.setting, "value": order.value, "reason": reason}
            return await self._ask(
                "/api/v1/commands/settings", {**setting, "valid_for_s": ADJUST_WITHIN_S}, order, timeout_s
            )
        body: dict[str, Any] = {
            "action": "open" if order.kind is OrderKind.SWITCH_OFF else "close",
            "load_id": order.load_id,
            "reason": reason,
        }
        if order.restore_at is not None:
            body["restore_at"] = order.restore_at.isoformat()
        return await self._ask("/api/v1/commands", body, order, timeout_s)

    async def _ask(self, path: str, body: Mapping[str, Any], order: SwitchingOrder, timeout_s: float) -> Progress:
        # After that the centre has been told no, and may have ordered otherwise: control heeds it for an OFF.
        take_by = self._clock.now() + timedelta(seconds=timeout_s)
        try:
            answer = await self._client.post(
                path, body, timeout_s=timeout_s, idempotency_key=order.id, take_by=take_by, centre=order.connection_id
            )
        except Unavailable:
            raise
        except Conflict as exc:  # our own question of before, which still runs, or one that came too late
            raise Unavailable(exc.message) from exc
        except PlatformError as exc:
            return Progress(None, CommandState.REJECTED, f"{exc.code}: {exc.message}"[:500])
        return _progress(answer, order)

    async def progress(self, order: SwitchingOrder, *, timeout_s: float) -> Progress:
        """See ``Switcher``."""
        kind = "settings" if order.kind is OrderKind.ADJUST else "groups"
        try:
            answer = await self._client.get(
                f"/api/v1/commands/{kind}/{order.group_id}", timeout_s=timeout_s, centre=order.connection_id
            )
        except NotFound as exc:
            raise Unavailable(f"control does not know group {order.group_id}", message_zh="控制服务查无此命令") from exc
        return _progress(answer, order)


def _progress(answer: Any, order: SwitchingOrder) -> Progress:
    try:
        if order.kind is OrderKind.ADJUST:
            setting = _Setting.model_validate(answer)
            return Progress(setting.setting_id, setting.state, setting.reason)
        group = _Group.model_validate(answer)
    except ValidationError as exc:
        raise _unreadable("control") from exc
    if group.commands:
        return Progress(group.group_id, group.commands[0].state, group.commands[0].reason)
    refusal = group.refused[0] if group.refused else _Refusal(guard="nothing_was_done")
    return Progress(group.group_id, CommandState.REJECTED, f"{refusal.guard}: {refusal.message}"[:500])


class _Threshold(BaseModel):
    device_id: str
    signal: str
    threshold: float | None
    unit: str
    level: int | None
    hysteresis: float = 0.0
    start_delay_s: float = 0.0
    end_delay_s: float = 0.0


class _Thresholds(BaseModel):
    thresholds: list[_Threshold]


class _Outcome(BaseModel):
    accepted: bool
    code: str | None = None
    detail: str | None = None


_OUTCOMES: TypeAdapter[Mapping[str, list[_Outcome]]] = TypeAdapter(Mapping[str, list[_Outcome]])


class AlarmThresholds:
    """Alarm's thresholds; what a centre sets is an override of the device there."""

    def __init__(self, client: ServiceClient) -> None:
        """Keep the client."""
        self._client = client

    async def thresholds(self, device_id: str, *, timeout_s: float) -> Sequence[Held]:
        """See ``ThresholdKeeper``."""
        try:
            answer = await self._client.get("/api/v1/alarm-rules/thresholds", timeout_s=timeout_s, device=device_id)
        except NotFound:
            return ()
        try:
            found = _Thresholds.model_validate(answer).thresholds
        except ValidationError as exc:
            raise _unreadable("alarm") from exc
        return [Held(**one.model_dump()) for one in found]

    async def set_thresholds(
        self, connection_id: str, wishes: Sequence[ThresholdWish], *, timeout_s: float
    ) -> Sequence[str | None]:
        """See ``ThresholdKeeper``."""
        orders = [{name: value for name, value in asdict(one).items() if value is not None} for one in wishes]
        body = {"connection": connection_id, "orders": orders}
        answer = await self._client.put("/api/v1/alarm-rules/thresholds", body, timeout_s=timeout_s)
        try:
            outcomes = _OUTCOMES.validate_python(answer)["outcomes"]
        except (ValidationError, KeyError) as exc:
            raise _unreadable("alarm") from exc
        if len(outcomes) != len(wishes):
            raise _unreadable("alarm")
        return [None if one.accepted else f"{one.code}: {one.detail}"[:500] for one in outcomes]


def _unreadable(who: str) -> Unavailable:
    return Unavailable(f"{who} answered what nobody can read", message_zh=f"{who} 的应答无法解读")
