"""What is said over a B interface, in neutral words: no names, numbers or spellings of any dialect.

*Unit* is the SU or FSU that Wattring plays, *centre* is the SC. Requests of a unit go up (registration,
alarms), requests of a centre come down (polls and orders); every request has one reply. Ids are the
centre's ids; which of our devices and points they stand for is the mapping's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum, StrEnum


class Operation(StrEnum):
    """What a command is about, whatever a dialect calls it."""

    REGISTER = "register"
    UNREGISTER = "unregister"
    REPORT_ALARMS = "report_alarms"
    READ_POINTS = "read_points"
    READ_HISTORY = "read_history"
    WRITE_POINTS = "write_points"
    READ_THRESHOLDS = "read_thresholds"
    WRITE_THRESHOLDS = "write_thresholds"
    CHECK_TIME = "check_time"
    READ_REGISTRATION = "read_registration"
    WRITE_REGISTRATION = "write_registration"
    WRITE_LOGIN_ACCOUNT = "write_login_account"
    """The account that units log in with, as their centre gives it."""
    READ_FILE_ACCOUNT = "read_file_account"
    WRITE_FILE_ACCOUNT = "write_file_account"
    READ_STATUS = "read_status"
    RESTART = "restart"
    READ_ALARMS = "read_alarms"
    """Alarms that hold now, for a centre that reconciles."""
    SET_HEARTBEAT = "set_heartbeat"
    """How often the centre will ask for the status."""
    READ_TIME = "read_time"
    ASK_SCHEME = "ask_scheme"
    """The unit asks for the centre's standard configuration."""
    READY = "ready"
    """The unit says that it has what it needs and begins to work."""
    READ_SCHEME = "read_scheme"
    WRITE_SCHEME = "write_scheme"
    ASK_FACTORY = "ask_factory"
    SEND_FACTORY = "send_factory"
    READ_FACTORY = "read_factory"
    WRITE_FACTORY = "write_factory"
    READ_OPTIONS = "read_options"
    """Which of several sets of thresholds a point uses."""
    WRITE_OPTIONS = "write_options"
    READ_DELAYS = "read_delays"
    """How long a value is waited for before its alarm begins, and ends."""
    WRITE_DELAYS = "write_delays"
    READ_DEVICES = "read_devices"
    """Description of the unit's devices."""
    SEND_DEVICES = "send_devices"
    WRITE_DEVICES = "write_devices"
    READ_STORAGE = "read_storage"
    WRITE_STORAGE = "write_storage"
    SEND_POINTS = "send_points"
    """Values that the unit sends unasked."""
    SEND_HISTORY = "send_history"
    """Values of before that the centre has not been told, because it was away."""
    SEND_PAST_ALARMS = "send_past_alarms"
    READ_PORT = "read_port"


PRIVILEGED = frozenset(
    {
        Operation.WRITE_POINTS,
        Operation.WRITE_THRESHOLDS,
        Operation.WRITE_REGISTRATION,
        Operation.WRITE_LOGIN_ACCOUNT,
        Operation.WRITE_FILE_ACCOUNT,
        Operation.RESTART,
        Operation.WRITE_SCHEME,
        Operation.WRITE_FACTORY,
        Operation.WRITE_OPTIONS,
        Operation.WRITE_DELAYS,
        Operation.WRITE_DEVICES,
        Operation.WRITE_STORAGE,
    }
)
"""Orders: refused unless the connection permits them, and audited either way."""


class PointType(StrEnum):
    """What kind of signal a point is."""

    DI = "DI"
    """Remote signal (遥信)."""
    AI = "AI"
    """Telemetry (遥测)."""
    DO = "DO"
    """Remote control (遥控)."""
    AO = "AO"
    """Remote adjustment (遥调)."""


class ValueState(IntEnum):
    """The state of a value; dialects number it in their own way."""

    NORMAL = 0
    CRITICAL = 1
    MAJOR = 2
    MINOR = 3
    HINT = 4
    INVALID = 6


class AlarmFlag(Enum):
    """Which end of an alarm's life is reported."""

    BEGIN = "begin"
    END = "end"


@dataclass(frozen=True, slots=True)
class UnitRef:
    """How the centre names a unit."""

    unit_id: str
    unit_code: str = ""
    """A second id where the dialect has one."""


@dataclass(frozen=True, slots=True)
class DeviceRef:
    """How the centre names a device."""

    device_id: str
    device_code: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSelection:
    """Which points of which device are asked for."""

    device: DeviceRef | None
    """None asks for all devices."""
    points: tuple[str, ...] | None
    """None asks for all points of the device."""


@dataclass(frozen=True, slots=True)
class PointValue:
    """One value as a centre is told it."""

    point_id: str
    type: PointType
    value: float | None
    """None when there is none; the dialect says what then stands on the wire."""
    state: ValueState
    recorded_at: datetime | None = None
    """When it was sampled; None when there is no value."""


@dataclass(frozen=True, slots=True)
class DeviceValues:
    """Values of one device."""

    device: DeviceRef
    values: tuple[PointValue, ...]


@dataclass(frozen=True, slots=True)
class PointOrder:
    """One value that the centre wants set (a set-point or a threshold)."""

    device: DeviceRef
    point_id: str
    value: float | None
    """None when what stood there is no number."""
    type: PointType | None = None
    """What the centre takes the point for; None when it does not say."""


@dataclass(frozen=True, slots=True)
class ThresholdValue:
    """One threshold in force."""

    point_id: str
    type: PointType
    value: float | None
    """None when the point has none."""
    level: int
    """Level of the alarm that it raises, 1 (worst) to 4; 0 none."""
    absolute: float = 0.0
    """Change of the value that is worth a report, in its unit."""
    relative: float = 0.0
    """The same in percent."""
    network_alarm: str = ""
    """Id of that alarm in the network's own table, where the centre has said one."""


@dataclass(frozen=True, slots=True)
class DeviceThresholds:
    """Thresholds of one device."""

    device: DeviceRef
    thresholds: tuple[ThresholdValue, ...]


@dataclass(frozen=True, slots=True)
class AlarmReport:
    """One end of one alarm."""

    serial: int
    """0 to 4,294,967,295; the END has its BEGIN's."""
    device: DeviceRef
    point_id: str
    flag: AlarmFlag
    at: datetime
    """When it began, or ended."""
    level: int
    """1 (worst) to 4."""
    text: str
    """For people, with the value that caused it."""
    began_at: datetime
    value: float | None = None
    detail: str = ""
    """The same at more length, where the dialect has room: device, signal, value."""
    network_alarm: str = ""
    """Id of the alarm in the network's own table, where the centre has said one."""


@dataclass(frozen=True, slots=True)
class PointOption:
    """Which of its sets of thresholds a point uses."""

    point_id: str
    type: PointType
    option_id: str


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Options of one device's points."""

    device: DeviceRef
    options: tuple[PointOption, ...]


@dataclass(frozen=True, slots=True)
class OptionOrder:
    """The option that the centre wants a point to use."""

    device: DeviceRef
    point_id: str
    option_id: str


@dataclass(frozen=True, slots=True)
class SignalDelays:
    """Delays in force of one signal's alarm."""

    point_id: str
    type: PointType
    begin_s: float
    """Before it begins. [s]"""
    end_s: float
    """Before it ends. [s]"""


@dataclass(frozen=True, slots=True)
class DeviceDelays:
    """Delays of one device's signals."""

    device: DeviceRef
    delays: tuple[SignalDelays, ...]


@dataclass(frozen=True, slots=True)
class DelayOrder:
    """Delays that the centre wants a signal's alarm to have; None is what it does not say."""

    device: DeviceRef
    point_id: str
    begin_s: float | None
    end_s: float | None
    unreadable: bool = False
    """Something stood there that is no number."""


@dataclass(frozen=True, slots=True)
class StorageRule:
    """How values of one point are stored."""

    point_id: str
    type: PointType
    interval_min: int
    """One value is stored each so often. [min]"""
    reference: datetime
    """From when the intervals are counted."""


@dataclass(frozen=True, slots=True)
class DeviceRules:
    """Storage rules of one device."""

    device: DeviceRef
    rules: tuple[StorageRule, ...]


@dataclass(frozen=True, slots=True)
class RuleOrder:
    """How the centre wants values of a point stored."""

    device: DeviceRef
    point_id: str
    interval_min: float | None
    """None when what stood there is no number."""
    absolute: float | None = None
    """Change of the value that is stored besides, in its unit; None for none."""
    relative: float | None = None
    """The same in percent."""


@dataclass(frozen=True, slots=True)
class SignalDescription:
    """One point of a device as its configuration describes it."""

    point_id: str
    type: PointType
    name: str = ""
    threshold: float | None = None
    """None when it has none, or none is known."""
    level: int | None = None
    """Level of the alarm that it raises, 1 (worst) to 4."""
    network_alarm: str = ""
    """Id of that alarm in the network's own table."""


class DeviceDetail(StrEnum):
    """What a centre wants to know of a device besides its name; texts of its own, which mean nothing here."""

    SITE_ID = "site_id"
    ROOM_ID = "room_id"
    SITE_NAME = "site_name"
    ROOM_NAME = "room_name"
    TYPE = "type"
    SUBTYPE = "subtype"
    MODEL = "model"
    BRAND = "brand"
    RATED_CAPACITY = "rated_capacity"
    VERSION = "version"
    IN_USE_SINCE = "in_use_since"
    DESCRIPTION = "description"
    REMARK = "remark"


@dataclass(frozen=True, slots=True)
class DeviceDescription:
    """Configuration of one device, as far as a mapping tells."""

    device: DeviceRef
    name: str
    signals: tuple[SignalDescription, ...] = ()
    details: Mapping[DeviceDetail, str] = field(default_factory=dict)
    """What is not there is not known."""


@dataclass(frozen=True, slots=True)
class SignalOrder:
    """How the centre wants one point of a device described; None is what it does not say."""

    point_id: str
    type: PointType | None = None
    name: str | None = None
    threshold: float | None = None
    level: int | None = None
    network_alarm: str | None = None
    unreadable: str = ""
    """Field that could not be read; empty when all could."""


@dataclass(frozen=True, slots=True)
class DeviceOrder:
    """How the centre wants one device described; signals that it does not name stay as they are."""

    device: DeviceRef
    name: str | None = None
    details: Mapping[DeviceDetail, str] = field(default_factory=dict)
    """What is not there is not said."""
    signals: tuple[SignalOrder, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """What a unit says of itself when it registers."""

    address: str = "127.0.0.1"
    """Where the centre reaches the unit's service."""
    port: int = 8080
    mac: str = ""
    imsi: str = ""
    network_type: str = "4G"
    locked_network_type: str = "LTE"
    carrier: str = "CT"
    modem_vendor: str = ""
    modem_type: str = ""
    registration_mode: str = "2"
    vendor: str = "WATTRING"
    type: str = "WATTRING-SU"
    unit_class: str = "INTSTAN"
    version: str = "1.0"
    dictionary_version: str = "2"
    """1 full dictionary, 2 compact one."""


# ---- requests of the unit --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """The unit asks to be let in."""

    unit: UnitRef
    facts: UnitFacts
    devices: tuple[DeviceRef, ...]
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Unregister:
    """The unit takes its leave."""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class ReportAlarms:
    """The unit reports begins and ends."""

    unit: UnitRef
    alarms: tuple[AlarmReport, ...]


@dataclass(frozen=True, slots=True)
class ReportPoints:
    """The unit says values unasked: latest ones, or those of before."""

    unit: UnitRef
    devices: tuple[DeviceValues, ...]
    types: frozenset[PointType] | None = None
    """Kinds of points that they are of; None all."""


@dataclass(frozen=True, slots=True)
class ReportDevices:
    """The unit says what devices it has."""

    unit: UnitRef
    devices: tuple[DeviceDescription, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """The unit says or asks something of which only its name is told, such as that it is ready."""

    unit: UnitRef


# ---- requests of the centre ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadPoints:
    """Latest values, please."""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]
    types: frozenset[PointType] | None = None
    """Kinds of points that the command is about; None all."""


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Stored values of a closed span of time."""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]
    start: datetime | None
    """None, as ``end``: the current day."""
    end: datetime | None


@dataclass(frozen=True, slots=True)
class WritePoints:
    """Set these points."""

    unit: UnitRef
    orders: tuple[PointOrder, ...]


@dataclass(frozen=True, slots=True)
class ReadThresholds:
    """Thresholds in force, please."""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]


@dataclass(frozen=True, slots=True)
class WriteThresholds:
    """Set these thresholds."""

    unit: UnitRef
    orders: tuple[PointOrder, ...]


@dataclass(frozen=True, slots=True)
class CheckTime:
    """The centre says what time it is; some dialects name no unit."""

    unit: UnitRef | None
    time: datetime


@dataclass(frozen=True, slots=True)
class ReadRegistration:
    """Where does the unit report to?"""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class WriteRegistration:
    """Report to this address from now on."""

    unit: UnitRef
    centre_address: str


@dataclass(frozen=True, slots=True)
class WriteLoginAccount:
    """Log in with this account from now on; some dialects name no unit."""

    unit: UnitRef | None
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadAlarms:
    """Alarms that hold now, please."""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class SetHeartbeat:
    """The centre will ask for the status so often."""

    unit: UnitRef | None
    """None means every unit of the centre."""
    interval_s: float


@dataclass(frozen=True, slots=True)
class ReadTime:
    """What time is it at the unit?"""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class ReadFileAccount:
    """Account of the unit's file server, please."""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class WriteFileAccount:
    """Change that account."""

    unit: UnitRef
    username: str
    password: str = field(repr=False)
    port: int | None = None
    """None when the centre names none."""


@dataclass(frozen=True, slots=True)
class ReadStatus:
    """Are you there? (heartbeat)."""

    unit: UnitRef


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Which options do these points use?"""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Use these options."""

    unit: UnitRef
    orders: tuple[OptionOrder, ...]


@dataclass(frozen=True, slots=True)
class ReadDelays:
    """Delays of these signals, please."""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]


@dataclass(frozen=True, slots=True)
class WriteDelays:
    """Wait so long."""

    unit: UnitRef
    orders: tuple[DelayOrder, ...]


@dataclass(frozen=True, slots=True)
class ReadStorage:
    """How are values of these points stored?"""

    unit: UnitRef
    selection: tuple[DeviceSelection, ...]


@dataclass(frozen=True, slots=True)
class WriteStorage:
    """Store them so."""

    unit: UnitRef
    orders: tuple[RuleOrder, ...]


@dataclass(frozen=True, slots=True)
class ReadDevices:
    """Configuration of one device, please."""

    unit: UnitRef
    device: DeviceRef


@dataclass(frozen=True, slots=True)
class WriteDevices:
    """Describe these devices so."""

    unit: UnitRef
    orders: tuple[DeviceOrder, ...]


@dataclass(frozen=True, slots=True)
class Restart:
    """Restart the unit."""

    unit: UnitRef


UnitRequest = Register | Unregister | ReportAlarms | ReportDevices | ReportPoints | Announce
CentreRequest = (
    ReadPoints
    | ReadHistory
    | WritePoints
    | ReadThresholds
    | WriteThresholds
    | CheckTime
    | ReadRegistration
    | WriteRegistration
    | WriteLoginAccount
    | ReadFileAccount
    | WriteFileAccount
    | ReadStatus
    | Restart
    | ReadAlarms
    | SetHeartbeat
    | ReadTime
    | ReadDevices
    | WriteDevices
    | ReadOptions
    | WriteOptions
    | ReadDelays
    | WriteDelays
    | ReadStorage
    | WriteStorage
)


# ---- replies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """The centre's answer to a registration."""

    accepted: bool
    right: int | None = None
    """1 read, 2 read and write; None when it was not said."""
    centre_address: str | None = None
    """Where events are to go from now on; None keeps the address."""
    reason: str = ""
    """Why not, in the centre's words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Yes or no; the only thing an unknown command is answered with."""

    unit: UnitRef | None
    ok: bool
    reason: str = ""
    """Why not, for people."""
    log_in_again: bool = False
    """The centre does not know the unit any more."""


@dataclass(frozen=True, slots=True)
class PointValues:
    """Values, latest or stored."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceValues, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds in force."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceThresholds, ...] = ()


@dataclass(frozen=True, slots=True)
class PointOptions:
    """Options in use."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceOptions, ...] = ()


@dataclass(frozen=True, slots=True)
class Delays:
    """Delays in force."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceDelays, ...] = ()


@dataclass(frozen=True, slots=True)
class StorageRules:
    """Storage rules in force."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceRules, ...] = ()


@dataclass(frozen=True, slots=True)
class ActiveAlarms:
    """Every alarm that holds now, as it began."""

    unit: UnitRef
    ok: bool
    alarms: tuple[AlarmReport, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitTime:
    """The unit's clock."""

    unit: UnitRef
    ok: bool
    time: datetime


@dataclass(frozen=True, slots=True)
class DeviceOutcome:
    """Which orders of one device were carried out."""

    device: DeviceRef
    done: tuple[str, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What became of orders; every point stands in exactly one of the two lists."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceOutcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Registration:
    """Where the unit reports to."""

    unit: UnitRef
    ok: bool
    centre_address: str = ""
    tunnel_address: str = ""
    devices: tuple[DeviceRef, ...] = ()
    facts: UnitFacts = UnitFacts()


@dataclass(frozen=True, slots=True)
class DeviceDescriptions:
    """Configuration of devices."""

    unit: UnitRef
    ok: bool
    devices: tuple[DeviceDescription, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DevicesWritten:
    """What became of descriptions; every device stands in exactly one of the two lists."""

    unit: UnitRef
    ok: bool
    done: tuple[DeviceRef, ...] = ()
    failed: tuple[DeviceRef, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FileAccount:
    """The account of the unit's file server."""

    unit: UnitRef
    ok: bool
    username: str = ""
    password: str = field(default="", repr=False)
    port: int = 21


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """How the unit is."""

    unit: UnitRef
    ok: bool
    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    time: datetime | None = None
    """The unit's clock, for dialects that tell it."""


CentreReply = Registered | Outcome
UnitReply = (
    Outcome
    | PointValues
    | WriteOutcome
    | Registration
    | FileAccount
    | UnitStatus
    | Thresholds
    | ActiveAlarms
    | UnitTime
    | DeviceDescriptions
    | DevicesWritten
    | PointOptions
    | Delays
    | StorageRules
)
