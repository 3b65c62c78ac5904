"""Sparkplug B: what is known of a node and its devices between a birth and a death; no bytes, no broker.

A birth names all metrics, once; what comes after it may use numbers (aliases) in place of names, and counts its
messages from 0 to 255 around. So after a gap in the count, or before a birth, an alias means nothing, and the node is
asked for a new birth. A death that belongs to an earlier birth (another ``bdSeq``) is old news.

Source:
    Sparkplug 3.0.0 (Eclipse Foundation, 2022): 4 topics, 5 operational behaviour, 6 payloads.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

NAMESPACE = "spBv1.0"
BD_SEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
SEQ_MODULUS = 256
MAX_ALIASES = 100_000
"""Of one node; more is no plant but a fault."""

Value = bool | int | float | str


class Verb(StrEnum):
    """What sort of message it is."""

    NBIRTH = "NBIRTH"
    NDATA = "NDATA"
    NDEATH = "NDEATH"
    NCMD = "NCMD"
    DBIRTH = "DBIRTH"
    DDATA = "DDATA"
    DDEATH = "DDEATH"
    DCMD = "DCMD"

    @property
    def is_command(self) -> bool:
        """Whether hosts send it, not nodes."""
        return self in (Verb.NCMD, Verb.DCMD)


class DataType(IntEnum):
    """Types of metrics that are numbers; the values are those on the wire."""

    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11


_SIGNED = {DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64}
"""Bits of the types that travel as unsigned numbers in two's complement."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a message, as it is on the wire."""

    name: str | None = None
    alias: int | None = None
    time_ms: int | None = None
    datatype: int | None = None
    value: Value | None = None
    """Integers unsigned; None is null, or a type that is no number and no text."""
    is_historical: bool = False
    quality: int | None = None
    """The property ``Quality``: 192 good, 0 bad, 500 stale."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One message."""

    metrics: Sequence[Metric] = ()
    time_ms: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """Who speaks, and how."""

    group: str
    verb: Verb
    node: str
    device: str | None = None

    @property
    def address(self) -> str:
        """What the registry calls the speaker."""
        return "/".join(part for part in (self.group, self.node, self.device) if part is not None)

    def __str__(self) -> str:
        return "/".join(
            part for part in (NAMESPACE, self.group, self.verb.value, self.node, self.device) if part is not None
        )


def parse_topic(text: str) -> Topic | None:
    """Return what a topic says, None when it is none of a node or device."""
    parts = text.split("/")
    if len(parts) not in (4, 5) or parts[0] != NAMESPACE or not all(parts) or parts[2] not in Verb.__members__:
        return None
    verb, device = Verb(parts[2]), parts[4] if len(parts) == 5 else None
    if (verb.value[0] == "D") != (device is not None):
        return None
    return Topic(parts[1], verb, parts[3], device)


def split_address(text: str | None) -> tuple[str, str, str | None] | None:
    """Return group, node and device of an address of the registry, None when it is none."""
    parts = (text or "").split("/")
    if len(parts) not in (2, 3) or not all(parts) or any(set(part) & {"+", "#", "\0"} for part in parts):
        return None
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


@dataclass(slots=True)
class Said:
    """What a message came to."""

    metrics: list[Metric] = field(default_factory=list)
    """With their names and, as far as the type is known, their signs."""
    is_birth: bool = False
    stale: list[str] = field(default_factory=list)
    """Addresses whose values do not hold any more."""
    wants_birth: bool = False


@dataclass(slots=True)
class Node:
    """One edge node and the devices behind it."""

    address: str
    born: bool = False
    bd_seq: int | None = None
    next_seq: int | None = None
    born_devices: set[str] = field(default_factory=set)
    """Addresses of devices whose birth has come since the node's."""
    _aliases: dict[int, tuple[str, int | None]] = field(default_factory=dict)
    """Alias to name and type."""
    _types: dict[tuple[str, str], int | None] = field(default_factory=dict)
    """Speaker's address and metric's name to type."""

    def is_alive(self, address: str) -> bool:
        """Return whether what was said by the node or a device of it still holds."""
        return self.born and (address == self.address or address in self.born_devices)

    def hear(self, topic: Topic, payload: Payload) -> Said:
        """Take a message of the node or of a device behind it."""
        match topic.verb:
            case Verb.NBIRTH:
                return self._node_birth(payload)
            case Verb.NDEATH:
                return self._node_death(payload)
            case Verb.NCMD | Verb.DCMD:
                return Said()
            case _:
                said = Said(wants_birth=not self.born)
                if self._is_gap(payload.seq):
                    said.stale = list(self._lose())
                    said.wants_birth = True
                self._device_message(topic, payload, said)
                return said

    def _node_birth(self, payload: Payload) -> Said:
        gone = sorted(self.born_devices)
        self.born = True
        self.born_devices.clear()
        self._aliases.clear()
        self._types.clear()
        self.bd_seq = _bd_seq(payload)
        self.next_seq = None if payload.seq is None else (payload.seq + 1) % SEQ_MODULUS
        # Devices are born anew after their node: until then nothing is known of them.
        return Said(metrics=list(self._learn(self.address, payload)), is_birth=True, stale=gone)

    def _node_death(self, payload: Payload) -> Said:
        of = _bd_seq(payload)
        if self.bd_seq is not None and of is not None and of != self.bd_seq:
            return Said()
        return Said(stale=list(self._lose()))

    def _device_message(self, topic: Topic, payload: Payload, said: Said) -> None:
        address = topic.address
        match topic.verb:
            case Verb.DBIRTH:
                said.is_birth = True
                said.metrics = list(self._learn(address, payload))
                if self.born:
                    self.born_devices.add(address)
                    said.stale = [one for one in said.stale if one != address]
            case Verb.DDEATH:
                self.born_devices.discard(address)
                said.stale.append(address)
            case _:
                if self.born and topic.device is not None and address not in self.born_devices:
                    said.wants_birth = True
                for metric in payload.metrics:
                    known = self._resolve(address, metric)
                    if known is None:
                        said.wants_birth = True
                    else:
                        said.metrics.append(known)

    def _is_gap(self, seq: int | None) -> bool:
        gap = self.next_seq is not None and seq is not None and seq != self.next_seq
        self.next_seq = None if seq is None else (seq + 1) % SEQ_MODULUS
        return gap

    def _lose(self) -> Iterator[str]:
        """Forget what the births have told, and yield whose values do not hold any more."""
        if self.born:
            yield self.address
            yield from sorted(self.born_devices)
        self.born = False
        self.born_devices.clear()
        self._aliases.clear()

    def _learn(self, address: str, payload: Payload) -> Iterator[Metric]:
        for metric in payload.metrics:
            if metric.name is None:
                continue
            if metric.alias is not None and len(self._aliases) < MAX_ALIASES:
                self._aliases[metric.alias] = (metric.name, metric.datatype)
            if len(self._types) < MAX_ALIASES:
                self._types[address, metric.name] = metric.datatype
            yield _with(metric, metric.name, metric.datatype)

    def _resolve(self, address: str, metric: Metric) -> Metric | None:
        """Return a metric with its name; None for an alias that means nothing."""
        if metric.name is not None:
            return _with(metric, metric.name, metric.datatype or self._types.get((address, metric.name)))
        found = None if metric.alias is None else self._aliases.get(metric.alias)
        return None if found is None else _with(metric, found[0], metric.datatype or found[1])


def signed(value: Value | None, datatype: int | None) -> Value | None:
    """Return a value with the sign that its type gives it."""
    bits = _SIGNED.get(datatype)  # type: ignore[call-overload]  # any number may come
    if bits is None or isinstance(value, bool) or not isinstance(value, int):
        return value
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def unsigned(value: float, datatype: DataType) -> Value:
    """Return a number as it travels for a type.

    Raises:
        ValueError: It does not fit.
    """
    if datatype is DataType.BOOLEAN:
        return value != 0
    if datatype in (DataType.FLOAT, DataType.DOUBLE):
        return float(value)
    bits = _SIGNED.get(datatype)
    width = bits or {DataType.UINT8: 8, DataType.UINT16: 16, DataType.UINT32: 32}.get(datatype, 64)
    number = round(value)
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if bits else (0, (1 << width) - 1)
    if not low <= number <= high:
        raise ValueError(f"{number} does not fit into {datatype.name}")
    # Small signed types travel in 32 bits.
    return number & ((1 << max(width, 32)) - 1)


def _with(metric: Metric, name: str, datatype: int | None) -> Metric:
    return Metric(
        name=name,
        alias=metric.alias,
        time_ms=metric.time_ms,
        datatype=datatype,
        value=signed(metric.value, datatype),
        is_historical=metric.is_historical,
        quality=metric.quality,
    )


def _bd_seq(payload: Payload) -> int | None:
    for metric in payload.metrics:
        if metric.name == BD_SEQ and isinstance(metric.value, int) and not isinstance(metric.value, bool):
            return metric.value
    return None


def type_named(name: str) -> DataType:
    """Return the type that a profile names."""
    return _BY_NAME[name]


_BY_NAME: Mapping[str, DataType] = {
    "Boolean": DataType.BOOLEAN, "Int8": DataType.INT8, "Int16": DataType.INT16, "Int32": DataType.INT32,
    "Int64": DataType.INT64, "UInt8": DataType.UINT8, "UInt16": DataType.UINT16, "UInt32": DataType.UINT32,
    "UInt64": DataType.UINT64, "Float": DataType.FLOAT, "Double": DataType.DOUBLE,
}  # fmt: skip
