"""The direct door's answer: read by control and by the watchdog, which must not load more than it needs."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from libs.common.contracts.base import UtcTime
from libs.common.errors import Unavailable


def _state(value: object) -> object:
    """Accept a point's number: 1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


State = Annotated[int | None, BeforeValidator(_state)]


class DoorLease(BaseModel):
    """By which right a load is off, as the line's holder knows it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    isolation_id: str | None = None


class DoorLoad(BaseModel):
    """One load as the door describes it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    load_id: str
    device_id: str | None = None
    site_id: str | None = None
    channel: int | None = None
    breaker_state: State = None
    """0 open, 1 closed, None never read."""
    read_at: UtcTime | None = None
    age_s: float | None = None
    local_lock: bool | None = None
    trip_reason: State = None
    held: bool = False
    """Whether this process holds the load's line."""
    off_lease: DoorLease | None = None

    @property
    def isolation_id(self) -> str | None:
        """Work permit under which the holder has opened it."""
        return None if self.off_lease is None else self.off_lease.isolation_id


class DoorSample(BaseModel):
    """One good value out of the history."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    device_id: str
    point: str
    at: UtcTime
    value: float


_LOADS = TypeAdapter(list[DoorLoad])
_SAMPLES = TypeAdapter(list[DoorSample])


def read_loads(answer: Any) -> list[DoorLoad]:
    """Return the loads in a door's answer: a list, or an object that holds it under ``loads`` or ``items``.

    Raises:
        Unavailable: It is no such answer.
    """
    try:
        return _LOADS.validate_python(answer.get("loads", answer.get("items")) if isinstance(answer, dict) else answer)
    except ValidationError as exc:
        raise Unavailable(f"the direct door answered something else: {str(exc)[:200]}") from exc


def read_samples(answer: Any) -> list[DoorSample]:
    """Return the values in a door's answer, which holds them under ``samples``.

    Raises:
        Unavailable: It is no such answer.
    """
    try:
        return _SAMPLES.validate_python(answer.get("samples") if isinstance(answer, dict) else None)
    except ValidationError as exc:
        raise Unavailable(f"the direct door answered something else: {str(exc)[:200]}") from exc
