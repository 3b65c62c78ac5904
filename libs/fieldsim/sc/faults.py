"""Faults of the centre that can be ordered."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libs.common.errors import InvalidInput


class Fault(StrEnum):
    """What goes wrong with an answer."""

    NO_ANSWER = "no_answer"
    """The connection stays open and nothing comes; after ``delay_s`` it is reset."""
    LATE = "late"
    """The right answer comes ``delay_s`` later."""
    RESULT_0 = "result_0"
    """Refused: Result 0, for a LOGIN RightLevel 0."""
    GARBAGE = "garbage"
    """HTTP 200 with something that is no envelope."""
    WRONG_CODE = "wrong_code"
    """The answer carries the code of another message."""
    HTTP_500 = "http_500"
    DROP = "drop"
    """The connection is reset at once."""


NOT_TAKEN = frozenset({Fault.RESULT_0})
"""Under these the centre has not taken what it was told."""


class Order(BaseModel):
    """One order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Fault
    command: str | None = None
    """Only answers to this message, such as SEND_ALARM; none: all."""
    count: int | None = Field(1, ge=1)
    """How many answers it spoils; none: until withdrawn."""
    delay_s: float = Field(30.0, ge=0)
    """Of ``late`` and ``no_answer``. [s]"""
    taken: bool = True
    """Whether the centre has taken the message before its answer is lost: the harder case."""


class FaultQueue:
    """Orders in the sequence they were given; the first that fits is used."""

    def __init__(self) -> None:
        self._orders: list[Order] = []

    def place(self, order: Order) -> None:
        """Add an order."""
        self._orders.append(order)

    def clear(self) -> int:
        """Withdraw all; return how many there were."""
        number = len(self._orders)
        self._orders.clear()
        return number

    def pending(self) -> list[Order]:
        """Return what is still to come."""
        return list(self._orders)

    def take(self, command: str) -> Order | None:
        """Return the order that spoils the answer to a message, and count it."""
        for index, order in enumerate(self._orders):
            if order.command in (None, command):
                if order.count == 1:
                    del self._orders[index]
                elif order.count is not None:
                    self._orders[index] = order.model_copy(update={"count": order.count - 1})
                return order
        return None


def parse_order(text: str) -> Order:
    """Return the order that a command line states as ``kind`` or ``kind:command=SEND_ALARM,count=3``.

    Raises:
        InvalidInput: The kind or a figure is unknown or out of range.
    """
    kind, _, rest = text.partition(":")
    pairs = (part.partition("=") for part in rest.split(",") if part.strip())
    fields: dict[str, object] = {"kind": kind.strip(), **{n.strip(): v.strip() for n, _, v in pairs}}
    if fields.get("count") == "all":
        fields["count"] = None
    try:
        return Order.model_validate(fields)
    except ValidationError as exc:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'kind'}: {e['msg']}" for e in exc.errors())
        raise InvalidInput(f"fault {text!r}: {reasons}", message_zh=f"故障 {text!r} 无效：{reasons}") from exc
