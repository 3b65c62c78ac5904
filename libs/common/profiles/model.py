"""A device profile: where the points of one model are, how to read them and how to switch it.

Facts of manuals as data. The driver of the protocol knows how to talk; the profile knows to whom.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from libs.common.jsonpath import JsonPath
from libs.common.points import POINTS, Point, PointKind, Quantity
from libs.common.profiles.layout import FieldType, Layout


class Protocol(StrEnum):
    """What the device speaks."""

    MODBUS = "modbus"
    DLT645 = "dlt645-2007"
    CJT188 = "cjt188"
    YD1363 = "yd1363"
    """YD/T 1363.3 (电总): rectifiers, distribution panels, batteries, air conditioners, environment."""
    AEP = "aep"
    """Through China Telecom's device platform (CTWing AEP): services and parameters in place of registers."""
    OPCUA = "opcua"
    MQTT = "mqtt"
    """JSON in topics of the maker's own."""
    SPARKPLUG = "sparkplug-b"
    IEC60870_5 = "iec60870-5"
    """IEC 60870-5-101 and -104: information objects of a station."""
    IEC60870_5_103 = "iec60870-5-103"
    """Protection relays: information by function type and information number."""
    IEC61850 = "iec61850"
    """Over MMS: attributes of logical nodes."""
    CDT = "cdt"
    """DL 451-91: what a station sends round and round."""

    @property
    def code(self) -> str:
        """What readings name as their driver: without the year of the standard."""
        return self.value.partition("-")[0]


class Confidence(StrEnum):
    """How far the source of the addresses can be trusted."""

    HIGH = "high"
    """Two independent sources or the maker's manual."""
    MEDIUM = "medium"
    """One source, or conflicting ones: read the notes."""
    LOW = "low"


class Side(StrEnum):
    """Which side of the transformers the numbers are on."""

    PRIMARY = "primary"
    """The meter has applied its ratios."""
    SECONDARY = "secondary"
    """The ratios are still to be applied."""
    DIRECT = "direct"
    """There is no transformer."""
    UNVERIFIED = "unverified"
    """The source does not say; check a known load before trusting it."""


class Area(StrEnum):
    """The four address spaces of Modbus."""

    HOLDING = "holding"
    INPUT = "input"
    COIL = "coil"
    DISCRETE = "discrete"

    @property
    def is_bits(self) -> bool:
        """Whether it holds single bits."""
        return self in (Area.COIL, Area.DISCRETE)


class RegisterType(StrEnum):
    """How a number is written in registers."""

    BOOL = "bool"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    STRING = "string"
    """Characters, two in a register; how many registers the point says."""

    @property
    def bits(self) -> int:
        """Width; a string has none of its own. [bit]"""
        match self:
            case RegisterType.BOOL:
                return 1
            case RegisterType.STRING:
                raise ValueError("how long a string is its point says")
            case _:
                return int(self.value[-2:])

    @property
    def is_float(self) -> bool:
        """Whether it is an IEEE 754 number."""
        return self is RegisterType.FLOAT32 or self is RegisterType.FLOAT64

    @property
    def is_signed(self) -> bool:
        """Whether it is an integer in two's complement."""
        return self in (RegisterType.INT16, RegisterType.INT32, RegisterType.INT64)


def register_count(type_: RegisterType) -> int:
    """Return how many addresses a value takes: registers, or one bit in a bit area."""
    return max(type_.bits // 16, 1)


class Order(StrEnum):
    """Which part of a number comes first."""

    BIG = "big"
    LITTLE = "little"


class Encoding(StrEnum):
    """Codes that are no plain numbers."""

    SCHNEIDER_4Q_PF = "schneider_4q_pf"
    """Power factor over four quadrants: above 1 it is 2 - raw, below -1 it is -2 - raw."""


@dataclass(frozen=True, slots=True)
class Serial:
    """Factory settings of a serial port."""

    baud: int
    data_bits: int
    parity: str
    """N, E or O."""
    stop_bits: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Where the meter keeps its ratios, and what they are for."""

    applied_by_meter: bool
    ct_register: int | None
    pt_register: int | None
    apply_to: frozenset[Quantity]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfilePoint:
    """What the points of all protocols have."""

    name: str
    unit: str
    """Canonical."""
    scale: float = 1.0
    """``value = raw * scale + offset``."""
    offset: float = 0.0
    """Added after the scale, in the canonical unit."""
    mask: int | None = None
    """Bits of the raw integer that count, not shifted."""
    value_map: Mapping[int, float] | None = None
    """Raw integer, masked, to value; a raw number that is not in it is invalid."""
    optional: bool = False
    """Absent on some variants: a refusal is no fault."""
    slow: bool = False
    """Read at start-up and once a day."""
    modulus: float | None = None
    """Of a counter: first value that the register cannot show, in its unit; None is unknown."""
    period_s: float | None = None
    """Of an energy per interval: how long the interval is that each number is the energy of. [s]"""
    stamped_at_start: bool = False
    """Of the same: whether a report's time is the interval's start; else its end."""
    copy_of: str | None = None
    """A single-phase device's point that repeats another: total power and power of phase a."""
    note: str | None = None

    @property
    def canonical(self) -> Point | None:
        """The canonical point, None for a vendor's ``x_…``."""
        return POINTS.get(self.name)

    @property
    def is_text(self) -> bool:
        """Whether the value is text, for the device's status."""
        return self.canonical is not None and self.canonical.kind is PointKind.TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusPoint(ProfilePoint):
    """A value in registers or bits."""

    area: Area
    address: int
    """On the wire, from 0."""
    type: RegisterType
    encoding: Encoding | None = None
    invalid_raw: frozenset[int] = frozenset()
    """Bit patterns, unsigned, that mean "no value"; NaN always does."""
    parts: tuple[int, ...] = ()
    """Addresses of its registers, most significant first, where they do not lie side by side; they are read in one
    request all the same, so that no carry falls between them."""

    @property
    def count(self) -> int:
        """How many addresses it takes, those between its parts included."""
        return max(self.parts) - min(self.parts) + 1 if self.parts else register_count(self.type)

    @property
    def end(self) -> int:
        """Address after its last."""
        return self.address + self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusTextPoint(ProfilePoint):
    """Characters in registers: a serial number, a version."""

    area: Area
    address: int
    """On the wire, from 0."""
    count: int
    """Registers."""

    @property
    def is_text(self) -> bool:
        """A text, whatever its name."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlt645Point(ProfilePoint):
    """A data item of DL/T 645-2007."""

    di: int
    """Data identifier, four bytes; transmitted low byte first."""
    byte_count: int
    format: str
    """Digits of the BCD number (``XXX.X``), or ``bitmap``, or a date or time."""
    signed: bool = False
    """The top bit of the highest byte is the sign."""
    bit: int | None = None
    """Of a bitmap: which bit, from 0."""
    invert: bool = False
    """Of a bit: 0 is the canonical 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cjt188Point(ProfilePoint):
    """A field in the answer of a CJ/T 188 meter."""

    data_offset: int
    """From the first byte of the data field; DI0 DI1 SER are 0 to 2."""
    byte_count: int
    format: str
    unit_byte_offset: int | None = None
    """Where the unit code of the value is; convert from it, the profile's unit is what it usually is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yd1363Point(ProfilePoint):
    """A value in one of the tables of a YD/T 1363.3 device."""

    table: str
    field: str
    """Its way through the table's layout: ``voltage``, ``module[1].current``."""


@dataclass(frozen=True, slots=True)
class Yd1363Table:
    """One question to a device, and what its answer holds."""

    name: str
    cid2: int
    info: bytes
    """Sent along: a group number, mostly nothing."""
    layout: Layout
    slow: bool
    optional: bool
    """Not all makers have it: a refusal is no fault."""


@dataclass(frozen=True, slots=True)
class Yd1363Alarm:
    """A byte of an answer that is an alarm of the device itself."""

    table: str
    field: str
    """Its way through the layout; ``[*]`` stands for every number of a group."""
    code: str
    """What alarm's table knows it by; ``{module}`` is the number of that group."""
    text: str
    text_zh: str
    severity: int | None
    values: Mapping[int, str]
    """Byte to what is added to the code: ``low``, ``high`` …; a byte that is not in it adds itself as ``x80``."""


@dataclass(frozen=True, slots=True)
class Yd1363Equipment:
    """What concerns all questions to a kind of equipment."""

    cid1: int
    version: int
    """Of the protocol, as the device wants it in every request: ``0x20``, ``0x21`` …"""
    tables: Mapping[str, Yd1363Table]
    alarms: tuple[Yd1363Alarm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AepPoint(ProfilePoint):
    """A parameter that the device reports through the platform."""

    service: str | None
    """Service id that carries it, as the push names it; None is any."""
    param: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AepEvent:
    """An event report of the device that means an alarm of its own."""

    service: str
    code: str
    """What alarm's table knows it by."""
    text: str
    text_zh: str
    severity: int | None = None
    """1 the worst to 4; None takes what the push says."""
    param: str | None = None
    """The parameter that tells beginning from end; None is an event that just happens."""
    begin: float = 1.0
    end: float = 0.0


@dataclass(frozen=True, slots=True)
class AepProduct:
    """What concerns all reports of a product on the platform."""

    events: tuple[AepEvent, ...] = ()
    time_param: str | None = None
    """Where the device tells its own time of a report; None takes the platform's."""
    time_unit: str = "ms"
    """Of ``time_param``: since 1970, in ``ms`` or ``s``."""
    cell_id_param: str | None = None
    pci_param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WordedPoint(ProfilePoint):
    """A value that may come as a word: ``ON``, ``closed``."""

    words: Mapping[str, float] | None = None
    """Word to raw number; a word that is not in it is no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaPoint(WordedPoint):
    """A variable of an OPC UA server."""

    node: str
    """Expanded node id, ``nsu=<uri>;s=…``; ``{device}`` is the device's address."""
    index: int | None = None
    """Which element, where the variable is an array."""
    deadband: float | None = None
    """Smaller changes are not told, in raw units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttPoint(WordedPoint):
    """A value in a JSON message."""

    path: JsonPath
    as_text: bool = False
    """The number is written as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugPoint(WordedPoint):
    """A metric of a Sparkplug B node or device."""

    metric: str


class TimeFormat(StrEnum):
    """How a message writes its time."""

    UNIX_S = "unix_s"
    UNIX_MS = "unix_ms"
    RFC3339 = "rfc3339"
    LOCAL = "local"
    """Date and time of day without an offset, in the zone that the profile names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTime:
    """Where a message has the time of its values."""

    path: JsonPath
    format: TimeFormat
    zone: str | None = None
    """IANA name, of local times."""
    optional: bool = False
    """Messages without it are of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttReport:
    """One sort of message that a product sends."""

    topic: str
    """With ``{device}`` where the address is part of it, and the wildcards of MQTT."""
    device: JsonPath | None = None
    """Where the address is in the message, if not in the topic."""
    items: JsonPath | None = None
    """List of reports in one message; each has its own device, time and points."""
    time: MessageTime | None = None
    """None: the values are of now."""
    seq: JsonPath | None = None
    message_id: JsonPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttRequest:
    """A message that makes the device report at once."""

    topic: str
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttReply:
    """How the device answers a command."""

    topic: str
    ok: JsonPath
    value: str | int | bool
    """What stands at ``ok`` when the command was taken."""
    id: JsonPath | None = None
    """Where the command's id is repeated; without it the next reply counts."""


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """What a change of a point means that the device tells by itself."""

    code: str
    """What alarm's table knows it by."""
    text: str
    text_zh: str
    severity: int | None = None
    """1 the worst to 4."""
    begin: int | None = None
    """Raw value with which it begins, any other ends it; None is an event that just happens, with each change."""


class ObjectType(StrEnum):
    """How an information object of IEC 60870-5 is coded, with or without a time tag."""

    SINGLE = "single"
    DOUBLE = "double"
    """1 off, 2 on; 0 and 3 are no positions."""
    STEP = "step"
    BITSTRING = "bitstring"
    NORMALISED = "normalised"
    """Fraction of the full range, -1 to 1: the scale is the full range."""
    SCALED = "scaled"
    FLOAT = "float"
    COUNTER = "counter"
    """Integrated total, 32 bits."""

    @property
    def is_whole(self) -> bool:
        """Whether the raw value is an integer."""
        return self not in (ObjectType.NORMALISED, ObjectType.FLOAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class StationPoint(ProfilePoint):
    """A point of a telecontrol station, which tells changes by itself."""

    event: ChangeEvent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Iec60870Point(StationPoint):
    """An information object of IEC 60870-5-101 or -104."""

    object_address: int
    """From the beginning of the device's objects in its station: see ``Address`` of the line's devices."""
    type: ObjectType


@dataclass(frozen=True, slots=True, kw_only=True)
class Iec61850Point(StationPoint):
    """An attribute of a logical node."""

    reference: str
    """``LD0/MMXU1.TotW.mag.f``: logical device without the IED's name, node, object, attribute."""
    constraint: str
    """Functional constraint: ``ST``, ``MX`` …"""


class ControlModel(StrEnum):
    """How an IED wants to be controlled (ctlModel)."""

    DIRECT = "direct"
    SBO = "sbo"
    """Select before operate."""
    DIRECT_ENHANCED = "direct_enhanced"
    """The IED tells how the command ended."""
    SBO_ENHANCED = "sbo_enhanced"

    @property
    def is_enhanced(self) -> bool:
        """Whether a termination of the command is told."""
        return self in (ControlModel.DIRECT_ENHANCED, ControlModel.SBO_ENHANCED)


class CdtElement(StrEnum):
    """The three sorts of values of CDT."""

    TELEMETRY = "telemetry"
    """Twelve bits, signed."""
    STATE = "state"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class CdtPoint(StationPoint):
    """A value in the frames of CDT."""

    element: CdtElement
    number: int
    """Among its sort: telemetry 0 to 255, states 0 to 511, counters 0 to 63."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What proves a control."""

    points: tuple[str, ...]
    """All of them must show the value; none of a restart."""
    value: float | None
    """None is the value that was written."""


RESTART = "restart"
"""Control that restarts the device; nothing is read back, the device has to answer again."""


@dataclass(frozen=True, slots=True)
class CloseTimer:
    """How a device is told to close by itself after a time."""

    control: str
    """Of the same profile; it takes the time, and its read-back point shows it. [s]"""
    step_s: float = 1.0
    """What the device counts in. [s]"""
    clear: float = 0.0
    """What stops the timer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What the controls of all protocols have."""

    name: str
    """``breaker_open``, ``relay_3_close``, ``ac_set_temperature`` …"""
    read_back: ReadBack
    settle_s: float | None = None
    """How long after the write the state is first read; None is the driver's own. [s]"""
    verify_within_s: float | None = None
    """How long the state may take to follow; None is the driver's own. [s]"""
    min: float | None = None
    """Least value that may be written, in the unit of the read-back point."""
    max: float | None = None
    note: str | None = None
    timer: CloseTimer | None = None
    """Of a control that takes a load off, where the device can close by itself: set and read back before it."""


class WriteFunction(StrEnum):
    """How Modbus writes."""

    COIL = "write_single_coil"
    REGISTER = "write_single_register"
    REGISTERS = "write_multiple_registers"
    COILS = "write_multiple_coils"

    @property
    def is_multiple(self) -> bool:
        """Whether it can write several."""
        return self in (WriteFunction.REGISTERS, WriteFunction.COILS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModbusControl(Control):
    """A write to registers or coils."""

    function: WriteFunction
    area: Area
    address: int
    value: int | None
    """Raw word; None takes ``values``, or the command's value by scale and offset of the read-back point."""
    values: tuple[int, ...] = ()
    """Raw words, or 0 and 1 for coils, of a write to several."""
    type: RegisterType | None = None
    """How the command's value is written; None is as the read-back point is, where that is one register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlt645Control(Control):
    """A control frame of DL/T 645-2007."""

    control_code: int
    n1: int
    """Kind of control: 1A trip, 1B permit closing, 1C close …"""
    password_level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cjt188Control(Control):
    """A write of CJ/T 188."""

    control_code: int
    di: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Iec60870Control(Control):
    """A command of IEC 60870-5-101 or -104."""

    object_address: int
    """As for points."""
    type: ObjectType
    """``single``, ``double``, ``normalised``, ``scaled`` or ``float``."""
    value: int | None
    """0 and 1 of a single, 1 (off) and 2 (on) of a double command; None takes the command's value, turned into a raw
    one by scale and offset of the read-back point."""
    select: bool = True
    """Select before operate."""
    qualifier: int = 0
    """0 as the station has it, 1 short pulse, 2 long pulse, 3 persistent."""
    termination: bool = True
    """Whether the station tells the end of the command; simple ones do not."""
    timed: bool = False
    """With a time tag (types 58 to 63, 104 only): the station drops it when it is old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Yd1363Control(Control):
    """A remote control or a parameter of YD/T 1363.3."""

    cid2: int
    info: bytes
    value_type: FieldType | None
    """How the command's value follows ``info``; None where the control takes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iec61850Control(Control):
    """A controllable object."""

    reference: str
    """``LD0/CSWI1.Pos``."""
    model: ControlModel
    value: bool | float | None
    """None takes the command's, turned into a raw one by scale and offset of the read-back point."""
    interlock_check: bool = True
    """Let the IED check its interlocking."""


AepValue = int | float | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AepControl(Control):
    """A command issued over the platform."""

    service: str
    params: Mapping[str, AepValue]
    """A parameter that is None takes the command's value."""
    ttl_s: int
    """How long the platform may keep the command for a device that sleeps; 0 is now or never. [s]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaControl(Control):
    """A write to a variable of an OPC UA server."""

    node: str
    type: str
    """Built-in type of the variable: ``Boolean``, ``Int16``, ``Double`` …"""
    value: float | None
    """Raw number; None takes the command's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttControl(Control):
    """A message to a command topic."""

    topic: str
    payload: str
    """``{device}``, ``{value}``, ``{id}``, ``{unix_s}`` and ``{unix_ms}`` are filled in."""
    reply: MqttReply | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkplugControl(Control):
    """A command message of Sparkplug B."""

    metric: str
    type: str
    """Data type of the metric: ``Boolean``, ``Int32``, ``Double`` …"""
    value: float | None


@dataclass(frozen=True, slots=True)
class ModbusClock:
    """Where a Modbus device keeps its clock; all of it is written, and read, in one request."""

    address: int
    """Of the first holding register."""
    registers: tuple[tuple[str, ...], ...]
    """Of each register its one part, or those of its high and its low byte: ``yyyy`` or ``yy``, ``mo``, ``dd``, ``hh``,
    ``mi``, ``ss``, and ``-`` for what is written as 0."""
    zone: str
    """What it is set to: IANA name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """Everything known about one model."""

    name: str
    """File name without ``.yaml``."""
    version: str
    """As the file says, else a hash of its content."""
    vendor: str
    vendor_zh: str
    model: str
    category: str
    """``meter_3p``, ``breaker`` …; becomes the device's kind."""
    protocol: Protocol
    transports: frozenset[str]
    confidence: Confidence
    points: Mapping[str, ProfilePoint]
    controls: Mapping[str, Control]
    serial: Serial | None = None
    side: Side | None = None
    """None where nothing is measured."""
    ratio: Ratio | None = None
    unit_id: int | None = None
    """Factory setting."""
    byte_order: Order = Order.BIG
    """Of the bytes in a register."""
    word_order: Order = Order.BIG
    """Of the registers of a value; little is low word first."""
    max_registers_per_read: int = 1
    """Longest read that is known to work."""
    clock: ModbusClock | None = None
    """Of a Modbus device whose clock can be set."""
    address_hint: str | None = None
    """What the device's address looks like, for people."""
    meter_type: int | None = None
    """CJ/T 188 type byte."""
    read_di: int | None = None
    """CJ/T 188 identifier of the reading."""
    single_read: bool = False
    """IEC 60870-5: whether the station answers the read command for single objects."""
    yd1363: Yd1363Equipment | None = None
    """Of power-room equipment on YD/T 1363.3."""
    control_blocks: tuple[str, ...] = ()
    """IEC 61850: report control blocks to enable, ``LD0/LLN0.BR.brcbState01``."""
    aep: AepProduct | None = None
    """Of a product on the device platform."""
    publishing_ms: int = 1000
    """How often an OPC UA server tells what has changed. [ms]"""
    reports: tuple[MqttReport, ...] = ()
    """What an MQTT product sends."""
    read_request: MqttRequest | None = None
    """What makes it report at once."""
    feedback: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def ratio_applies_to(self) -> frozenset[Quantity]:
        """Which quantities still have to be multiplied with CT and PT ratio; empty where the meter did it."""
        if self.side is not Side.SECONDARY or (self.ratio is not None and self.ratio.applied_by_meter):
            return frozenset()
        if self.ratio is not None and self.ratio.apply_to:
            return self.ratio.apply_to
        return frozenset({Quantity.VOLTAGE, Quantity.CURRENT, Quantity.POWER, Quantity.ENERGY})

    @property
    def is_single_phase(self) -> bool:
        """Whether it knows phase a only."""
        return self.category == "meter_1p" or single_phase(self.points)

    @property
    def switching_points(self) -> frozenset[str]:
        """Points that show the position of a switch, or when it closes by itself: only switching may move them."""
        timers = {control.timer.control for control in self.controls.values() if control.timer is not None}
        moving = (one for one in self.controls.values() if one.read_back.value is not None or one.name in timers)
        return frozenset(point for one in moving for point in one.read_back.points)

    def modbus_points(self) -> Iterator[ModbusPoint]:
        """Yield the points that Modbus reads."""
        return (point for point in self.points.values() if isinstance(point, ModbusPoint))

    def modbus_texts(self) -> Iterator[ModbusTextPoint]:
        """Yield the texts that Modbus reads."""
        return (point for point in self.points.values() if isinstance(point, ModbusTextPoint))

    def dlt645_points(self) -> Iterator[Dlt645Point]:
        """Yield the points that DL/T 645 reads."""
        return (point for point in self.points.values() if isinstance(point, Dlt645Point))

    def iec61850_points(self) -> Iterator[Iec61850Point]:
        """Yield the attributes of logical nodes."""
        return (point for point in self.points.values() if isinstance(point, Iec61850Point))

    def cdt_points(self) -> Iterator[CdtPoint]:
        """Yield the values in the frames of CDT."""
        return (point for point in self.points.values() if isinstance(point, CdtPoint))

    def iec60870_points(self) -> Iterator[Iec60870Point]:
        """Yield the information objects of IEC 60870-5."""
        return (point for point in self.points.values() if isinstance(point, Iec60870Point))

    def yd1363_points(self) -> Iterator[Yd1363Point]:
        """Yield the points in the tables of YD/T 1363.3."""
        return (point for point in self.points.values() if isinstance(point, Yd1363Point))

    def cjt188_points(self) -> Iterator[Cjt188Point]:
        """Yield the points in a CJ/T 188 answer."""
        return (point for point in self.points.values() if isinstance(point, Cjt188Point))


def single_phase(names: Mapping[str, object]) -> bool:
    """Return whether points of these names are those of a single-phase device."""
    others = any(name.endswith(("_b", "_c", "_ab", "_bc", "_ca")) for name in names)
    return "voltage_a" in names and not others
