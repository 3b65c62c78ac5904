"""Faults that can be ordered, and the board that knows which are active.

An order is data: a kind with its figures, a beginning, a length and perhaps a repetition. Whether it is active is a
pure function of time, so a story of faults needs no timers, survives a restart and can be listed ahead.

Orders come from the command line (``sag:phase=a,to_v=150,duration_s=12,every_s=300``), from a field file and over the
control API, all as the same pydantic models.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from libs.common.errors import InvalidInput

EVERY_DEVICE = "*"
"""As the device of an order: all of this process."""


class TripReason(IntEnum):
    """Why a breaker opened: values of the canonical point ``breaker_trip_reason``."""

    OVERLOAD = 1
    SHORT_CIRCUIT = 2
    LEAKAGE = 3
    OVERVOLTAGE = 4
    UNDERVOLTAGE = 5
    PHASE_LOSS = 6
    OVERTEMPERATURE = 7
    ARC = 8
    REMOTE = 9
    MANUAL = 10
    TEST_BUTTON = 11
    ENERGY_LIMIT = 12
    ARREARS = 13
    UNKNOWN = 99

    @property
    def is_protection(self) -> bool:
        """Whether a person has to release the breaker before it closes again."""
        return self <= TripReason.ARC


class Order(BaseModel):
    """What every order has: when it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_s: float = Field(0.0, ge=0)
    """From the moment it is placed to the first beginning. [s]"""
    duration_s: float | None = Field(None, gt=0)
    """How long it holds; none: until it is withdrawn. [s]"""
    every_s: float | None = Field(None, gt=0)
    """It begins again this long after each beginning. [s]"""


class Silent(Order):
    """Requests are read and never answered."""

    kind: Literal["silent"] = "silent"


class Slow(Order):
    """Every answer comes late."""

    kind: Literal["slow"] = "slow"
    delay_s: float = Field(2.0, gt=0)


class Refuses(Order):
    """Requests are answered by a Modbus exception."""

    kind: Literal["exception"] = "exception"
    code: int = Field(4, ge=1, le=255)
    functions: tuple[int, ...] | None = None
    """Only these function codes; none: all."""


class GarbageShape(StrEnum):
    """What is wrong with a garbled answer."""

    NOISE = "noise"
    WRONG_UNIT = "wrong_unit"
    WRONG_FUNCTION = "wrong_function"
    WRONG_COUNT = "wrong_count"
    WRONG_TRANSACTION = "wrong_transaction"
    WRONG_CHECKSUM = "wrong_checksum"
    TRUNCATED = "truncated"
    DOUBLED = "doubled"
    SPLIT = "split"
    """A right answer in two pieces: a reader that fails here is at fault itself."""


class Garbage(Order):
    """Answers are garbled on the way."""

    kind: Literal["garbage"] = "garbage"
    shape: GarbageShape = GarbageShape.NOISE


class Drop(Order):
    """The TCP connection is reset instead of an answer."""

    kind: Literal["drop"] = "drop"


class Stale(Order):
    """Each answer is held back and sent right before the answer to the next request."""

    kind: Literal["stale"] = "stale"


class Frozen(Order):
    """The device goes on showing the values it had when the fault began."""

    kind: Literal["frozen"] = "frozen"


class Markers(Order):
    """Points hold the profile's "not measured" marker (NaN, all ones, ...)."""

    kind: Literal["nan"] = "nan"
    points: tuple[str, ...] = ()
    """Names; none given: every gauge of the device, registers and states excepted."""


class VoltageSag(Order):
    """The voltage of some phases falls, or rises, as this device sees it; power stays, current follows."""

    kind: Literal["sag"] = "sag"
    phase: str = Field("a", pattern="^[abc]{1,3}$")
    to_v: float | None = Field(None, ge=0)
    """What it falls to. [V]"""
    depth: float | None = Field(None, le=1)
    """Or: the part of the voltage that is lost; negative is a swell."""


class ClockOffset(Order):
    """The device's own clock is wrong: what it dates itself carries the error."""

    kind: Literal["clock"] = "clock"
    offset_s: float


class IgnoresCommands(Order):
    """A breaker acknowledges commands and does not move."""

    kind: Literal["ignore_command"] = "ignore_command"


class Bounce(Order):
    """A breaker reaches the commanded position, falls back and returns, ``count`` times."""

    kind: Literal["bounce"] = "bounce"
    count: int = Field(2, ge=1, le=20)
    gap_s: float = Field(0.4, gt=0)
    settles: bool = True
    """Whether it ends in the commanded position."""


class Locked(Order):
    """The local lock of a breaker is on: the feedback shows it, commands are acknowledged and not obeyed."""

    kind: Literal["locked"] = "locked"


class Welded(Order):
    """A breaker's contacts are stuck: it reads open while ``share`` of the load still flows."""

    kind: Literal["welded"] = "welded"
    share: float = Field(1.0, gt=0, le=1)


class RaisesAlarm(Order):
    """A byte of a YD/T 1363.3 alarm table leaves normal."""

    kind: Literal["alarm"] = "alarm"
    field: str = Field(min_length=1)
    """Its way through the table: ``module[2].fault``."""
    byte: int = Field(1, ge=1, le=255)


class Trip(Order):
    """A breaker opens by itself at each beginning."""

    kind: Literal["trip"] = "trip"
    reason: TripReason = TripReason.OVERLOAD


AnyOrder = Annotated[
    Silent
    | Slow
    | Refuses
    | Garbage
    | Drop
    | Stale
    | Frozen
    | Markers
    | VoltageSag
    | ClockOffset
    | IgnoresCommands
    | Bounce
    | Locked
    | Welded
    | RaisesAlarm
    | Trip,
    Field(discriminator="kind"),
]
ORDERS: TypeAdapter[AnyOrder] = TypeAdapter(AnyOrder)

AnOrder = TypeVar("AnOrder", bound=Order)


@dataclass(frozen=True, slots=True)
class Placed:
    """An order on the board."""

    fault_id: int
    device_id: str
    order: AnyOrder
    placed_at_s: float
    """[s since 1970]"""

    def begin_of(self, now_s: float) -> float | None:
        """Return when the occurrence that holds at ``now_s`` began; none when none holds. [s since 1970]"""
        since_s = now_s - self.placed_at_s - self.order.after_s
        if since_s < 0:
            return None
        if self.order.every_s is not None:
            since_s = math.fmod(since_s, self.order.every_s)
        if self.order.duration_s is not None and since_s >= self.order.duration_s:
            return None
        return now_s - since_s

    def beginnings(self, after_s: float, until_s: float) -> Iterator[float]:
        """Yield the beginnings with ``after_s < beginning <= until_s``. [s since 1970]"""
        first_s = self.placed_at_s + self.order.after_s
        if self.order.every_s is None:
            if after_s < first_s <= until_s:
                yield first_s
            return
        number = max(0, math.floor((after_s - first_s) / self.order.every_s))
        while (begin_s := first_s + number * self.order.every_s) <= until_s:
            if begin_s > after_s:
                yield begin_s
            number += 1


class FaultBoard:
    """All orders of one process."""

    def __init__(self) -> None:
        self._by_device: dict[str, tuple[Placed, ...]] = {}
        self._next_id = 1

    def place(self, device_id: str, order: AnyOrder, now_s: float) -> Placed:
        """Put an order on the board; its times count from ``now_s``."""
        placed = Placed(self._next_id, device_id, order, now_s)
        self._next_id += 1
        self._by_device[device_id] = (*self._by_device.get(device_id, ()), placed)
        return placed

    def withdraw(self, fault_id: int) -> bool:
        """Take an order off; return whether it was there."""
        for device_id, orders in self._by_device.items():
            kept = tuple(placed for placed in orders if placed.fault_id != fault_id)
            if len(kept) != len(orders):
                self._by_device[device_id] = kept
                return True
        return False

    def clear(self, device_id: str | None = None) -> int:
        """Take off all orders, or those of one device; return how many."""
        gone = [device_id] if device_id is not None else list(self._by_device)
        return sum(len(self._by_device.pop(one, ())) for one in gone)

    def placed(self) -> list[Placed]:
        """Return every order on the board, in the order they were placed."""
        return sorted(
            (placed for orders in self._by_device.values() for placed in orders),
            key=lambda placed: placed.fault_id,
        )

    def of(self, device_id: str) -> Iterable[Placed]:
        """Return the orders that concern a device, active or not; cheap when there are none."""
        if not self._by_device:
            return ()
        return (*self._by_device.get(device_id, ()), *self._by_device.get(EVERY_DEVICE, ()))

    def active(self, device_id: str, kind: type[AnOrder], now_s: float) -> AnOrder | None:
        """Return the latest placed order of a kind that holds now."""
        found: AnOrder | None = None
        for placed in self.of(device_id):
            if isinstance(placed.order, kind) and placed.begin_of(now_s) is not None:
                found = placed.order
        return found

    def began(self, device_id: str, kind: type[AnOrder], now_s: float) -> float | None:
        """Return since when an order of a kind holds; none when none does. [s since 1970]"""
        begins = [
            begin_s
            for placed in self.of(device_id)
            if isinstance(placed.order, kind) and (begin_s := placed.begin_of(now_s)) is not None
        ]
        return min(begins, default=None)

    def beginnings(
        self, device_id: str, kind: type[AnOrder], after_s: float, until_s: float
    ) -> list[tuple[float, AnOrder]]:
        """Return what orders of a kind began in ``(after_s, until_s]``, earliest first."""
        return sorted(
            (
                (begin_s, placed.order)
                for placed in self.of(device_id)
                if isinstance(placed.order, kind)
                for begin_s in placed.beginnings(after_s, until_s)
            ),
            key=lambda found: found[0],
        )


def parse_order(text: str) -> AnyOrder:
    """Return the order that a command line states as ``kind`` or ``kind:name=value,name=value``.

    Several values of one name are joined with ``+``: ``nan:points=voltage_a+voltage_b``.

    Raises:
        InvalidInput: The kind or a figure is unknown or out of range.
    """
    kind, _, rest = text.partition(":")
    fields: dict[str, object] = {"kind": kind.strip()}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        name, separator, value = part.partition("=")
        if not separator:
            raise InvalidInput(
                f"fault {text!r}: expected name=value, found {part!r}",
                message_zh=f"故障 {text!r}：应为 名称=值，实为 {part!r}",
            )
        fields[name.strip()] = value.split("+") if name.strip() in ("points", "functions") else value
    try:
        return ORDERS.validate_python(fields)
    except ValidationError as exc:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'][1:])) or 'kind'}: {e['msg']}" for e in exc.errors())
        raise InvalidInput(f"fault {text!r}: {reasons}", message_zh=f"故障 {text!r} 无效：{reasons}") from exc
