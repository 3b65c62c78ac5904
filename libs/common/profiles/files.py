"""The profile file as it is written: one model per protocol, unknown fields refused."""

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from libs.common.errors import WrongValue
from libs.common.jsonpath import parse_path
from libs.common.profiles.layout import FieldType
from libs.common.profiles.model import (
    Area,
    CdtElement,
    Confidence,
    ControlModel,
    Encoding,
    ObjectType,
    Order,
    RegisterType,
    Side,
    TimeFormat,
    WriteFunction,
)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Address = Annotated[int, Field(ge=0, le=0xFFFF)]
Text = Annotated[str, Field(min_length=1)]
Byte = Annotated[int, Field(ge=0, le=0xFF)]
HexText = Annotated[str, Field(pattern=r"^0x[0-9A-Fa-f]{1,8}$")]
HexByte = Annotated[str, Field(pattern=r"^[0-9A-F]{2}$")]
HexBytes = Annotated[str, Field(pattern=r"^(?:[0-9A-F]{2})*$", max_length=64)]
Transport = Literal[
    "tcp", "rtu", "rtu_over_tcp", "rs485", "mbus", "tcp_transparent", "nb_iot", "cellular", "opcua", "mqtt"
]
Scale = Annotated[float, Field(allow_inf_nan=False)]


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # unknown, no name at all, a folder of zones
        raise WrongValue("an IANA time zone such as Asia/Shanghai", "IANA 时区,如 Asia/Shanghai") from None
    return text


ZoneName = Annotated[str, AfterValidator(_zone)]


class FileModel(BaseModel):
    """Base: frozen, exact types, no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class SerialFile(FileModel):
    """``serial_default``."""

    baud: int = Field(ge=50, le=4_000_000)
    data: Literal[7, 8]
    parity: Literal["N", "E", "O"]
    stop: Literal[1, 2]


class RatioFile(FileModel):
    """``ratio``."""

    applied_by_meter: bool
    ct_register: HexText | None = None
    pt_register: HexText | None = None
    apply_to: list[Literal["voltage", "current", "power", "energy"]] | None = None


class ReadBackFile(FileModel):
    """``read_back`` of a control."""

    points: list[Name] = Field(min_length=1)
    value: float | None = None


class PointFile(FileModel):
    """What the points of all protocols have."""

    name: Name
    scale: Scale
    unit: str
    optional: bool = False
    slow: bool = False
    mask: int | None = Field(default=None, gt=0)
    map: dict[str, float] | None = Field(default=None, min_length=1)
    modulus: float | None = Field(default=None, gt=0)
    period_s: float | None = Field(default=None, ge=60, le=86_400)
    stamped: Literal["end", "start"] = "end"
    note: Text | None = None


class ModbusPointFile(PointFile):
    """A point of a Modbus device."""

    area: Annotated[Area, Field(strict=False)]
    addr: Address | None = None
    addrs: list[Address] | None = Field(default=None, min_length=2, max_length=4)
    count: int | None = Field(default=None, ge=1, le=125)
    type: Annotated[RegisterType, Field(strict=False)]
    offset: float = 0.0
    encoding: Annotated[Encoding, Field(strict=False)] | None = None


class Dlt645PointFile(PointFile):
    """A point of a DL/T 645 device."""

    di: int = Field(ge=0, le=0xFFFFFFFF)
    bytes: int = Field(ge=1, le=64)
    format: Text
    signed: bool = False
    bit: int | None = Field(default=None, ge=0)
    invert: bool = False


class Cjt188PointFile(PointFile):
    """A point of a CJ/T 188 meter."""

    offset: int = Field(ge=3, le=255)
    bytes: int = Field(ge=1, le=16)
    format: Text
    unit_byte_offset: int | None = Field(default=None, ge=3, le=255)


class CloseTimerFile(FileModel):
    """``timer`` of a control that takes a load off."""

    control: Name
    step_s: float = Field(default=1.0, gt=0, le=3600)
    clear: float = 0.0


class ControlFile(FileModel):
    """What the controls of all protocols have."""

    name: Name
    read_back: ReadBackFile | None = None
    settle_s: float | None = Field(default=None, ge=0)
    verify_within_s: float | None = Field(default=None, gt=0)
    min: float | None = None
    max: float | None = None
    note: Text | None = None
    timer: CloseTimerFile | None = None


class ModbusControlFile(ControlFile):
    """A control of a Modbus device."""

    function: Annotated[WriteFunction, Field(strict=False)]
    area: Literal["holding", "coil"]
    addr: Address
    value: int | None = Field(default=None, ge=0, le=0xFFFF)
    values: list[Annotated[int, Field(ge=0, le=0xFFFF)]] | None = Field(default=None, min_length=1, max_length=123)
    type: Annotated[RegisterType, Field(strict=False)] | None = None


class Dlt645ControlFile(ControlFile):
    """A control of a DL/T 645 device."""

    control_code: Byte
    n1: HexByte
    password_level: HexByte


class Cjt188ControlFile(ControlFile):
    """A control of a CJ/T 188 meter."""

    control_code: Byte
    di: Address
    data: HexByte


class ChangeEventFile(FileModel):
    """``event`` of a point whose changes the device tells by itself."""

    code: Name | None = None
    text: Text
    text_zh: Text
    severity: int | None = Field(default=None, ge=1, le=4)
    begin: int | None = None


ObjectAddress = Annotated[int, Field(ge=0, le=0xFFFFFF)]


class StationPointFile(PointFile):
    """A point of a telecontrol station, which tells changes by itself."""

    offset: float = 0.0
    event: ChangeEventFile | None = None


class Iec60870PointFile(StationPointFile):
    """An information object of IEC 60870-5-101 or -104."""

    ioa: ObjectAddress
    type: Annotated[ObjectType, Field(strict=False)]


Octet = Annotated[int, Field(ge=0, le=255)]


class Iec103PointFile(StationPointFile):
    """Information of a protection relay."""

    fun: Octet
    inf: Octet
    type: Literal["state", "measurand"]
    index: int | None = Field(default=None, ge=0, le=126)


class Iec103ControlFile(ControlFile):
    """A general command of IEC 60870-5-103."""

    fun: Octet
    inf: Octet
    value: Literal[1, 2]


AttributeReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+){2,}$")]
ObjectReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+$")]
ReportReference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+/[A-Za-z0-9_]+\.(BR|RP)\.[A-Za-z0-9_]+$")]


class Iec61850PointFile(StationPointFile):
    """An attribute of a logical node."""

    ref: AttributeReference
    fc: Literal["ST", "MX", "SP", "CF", "DC"]


class Iec61850ControlFile(ControlFile):
    """A controllable object of IEC 61850."""

    ref: ObjectReference
    model: Annotated[ControlModel, Field(strict=False)]
    value: bool | float | None
    interlock_check: bool = True


class CdtPointFile(StationPointFile):
    """A value in the frames of CDT."""

    element: Annotated[CdtElement, Field(strict=False)]
    number: int = Field(ge=0, le=511)


class Iec60870ControlFile(ControlFile):
    """A command of IEC 60870-5-101 or -104."""

    ioa: ObjectAddress
    type: Literal["single", "double", "normalised", "scaled", "float"]
    value: int | None
    select: bool = True
    qualifier: int = Field(default=0, ge=0, le=31)
    termination: bool = True
    timed: bool = False


class Yd1363PointFile(PointFile):
    """A point of a YD/T 1363.3 device."""

    table: Name
    field: Text
    offset: float = 0.0


class Yd1363TableFile(FileModel):
    """``tables`` of a YD/T 1363.3 device."""

    name: Name
    cid2: Byte
    info: HexBytes = ""
    layout: Text
    slow: bool = False
    optional: bool = False


class Yd1363AlarmFile(FileModel):
    """``alarms`` of a YD/T 1363.3 device."""

    table: Name
    field: Text
    code: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_{}]{0,63}$")]
    text: Text
    text_zh: Text
    severity: int | None = Field(default=None, ge=1, le=4)
    values: dict[str, Name] | None = Field(default=None, min_length=1)


class Yd1363ControlFile(ControlFile):
    """A control of a YD/T 1363.3 device."""

    cid2: Byte = 0x45
    info: HexBytes
    value_type: Annotated[FieldType, Field(strict=False)] | None = None


class AepPointFile(PointFile):
    """A point of a product on the device platform."""

    service: Text | None = None
    param: Text


class AepEventFile(FileModel):
    """``events`` of a product on the device platform."""

    service: Text
    code: Name
    text: Text
    text_zh: Text
    severity: int | None = Field(default=None, ge=1, le=4)
    param: Text | None = None
    begin: float = 1.0
    end: float = 0.0


class AepTimeFile(FileModel):
    """``time`` of a product on the device platform."""

    param: Text
    unit: Literal["ms", "s"] = "ms"


class AepRadioFile(FileModel):
    """``radio`` of a product on the device platform."""

    cell_id: Text | None = None
    pci: Text | None = None


class AepControlFile(ControlFile):
    """A command of a product on the device platform."""

    service: Text
    params: dict[str, bool | int | float | Annotated[str, Field(max_length=200)] | None] = Field(min_length=1)
    ttl_s: int = Field(ge=0, le=864_000)


class ProfileFile(FileModel):
    """What the files of all protocols have."""

    schema_: Literal["device-profile/1"] = Field(alias="schema")
    vendor: Text
    vendor_zh: Text
    model: Text
    category: Name
    version: Text | None = None
    transports: list[Transport] = Field(min_length=1)
    serial_default: SerialFile | None = None
    confidence: Annotated[Confidence, Field(strict=False)]
    side: Annotated[Side, Field(strict=False)] | None = None
    feedback: list[Text] = []
    notes: list[Text] = []
    source: list[Text] = Field(min_length=1)


class ModbusClockFile(FileModel):
    """``clock`` of a Modbus device."""

    addr: Address
    registers: list[
        Annotated[str, Field(pattern=r"^(?:yyyy|-|(?:yy|mo|dd|hh|mi|ss|-)(?:/(?:yy|mo|dd|hh|mi|ss|-))?)$")]
    ] = Field(min_length=1, max_length=10)
    zone: ZoneName = "Asia/Shanghai"


class ModbusFile(ProfileFile):
    """The file of a Modbus device."""

    protocol: Literal["modbus"]
    unit_id_default: int | None = Field(default=None, ge=1, le=247)
    address_base: Literal[0]
    byte_order: Annotated[Order, Field(strict=False)]
    word_order: Annotated[Order, Field(strict=False)]
    max_registers_per_read: int = Field(ge=1, le=125)
    invalid_values: dict[str, str] = {}
    ratio: RatioFile | None = None
    clock: ModbusClockFile | None = None
    points: list[ModbusPointFile] = Field(min_length=1)
    controls: list[ModbusControlFile] = []


class Dlt645File(ProfileFile):
    """The file of a DL/T 645 device."""

    protocol: Literal["dlt645-2007"]
    address: Text
    points: list[Dlt645PointFile] = Field(min_length=1)
    controls: list[Dlt645ControlFile] = []


class Cjt188File(ProfileFile):
    """The file of a CJ/T 188 meter."""

    protocol: Literal["cjt188"]
    address: Text
    meter_type: HexText
    read_di: HexText
    points: list[Cjt188PointFile] = Field(min_length=1)
    controls: list[Cjt188ControlFile] = []


class Iec60870File(ProfileFile):
    """The file of a device behind IEC 60870-5-101 or -104."""

    protocol: Literal["iec60870-5"]
    address: Text
    single_read: bool = False
    points: list[Iec60870PointFile] = Field(min_length=1)
    controls: list[Iec60870ControlFile] = []


class Iec103File(ProfileFile):
    """The file of a device behind IEC 60870-5-103."""

    protocol: Literal["iec60870-5-103"]
    address: Text
    points: list[Iec103PointFile] = Field(min_length=1)
    controls: list[Iec103ControlFile] = []


class Yd1363File(ProfileFile):
    """The file of a YD/T 1363.3 device."""

    protocol: Literal["yd1363"]
    address: Text
    cid1: Byte
    protocol_version: Byte
    tables: list[Yd1363TableFile] = Field(min_length=1)
    points: list[Yd1363PointFile] = Field(min_length=1)
    alarms: list[Yd1363AlarmFile] = []
    controls: list[Yd1363ControlFile] = []


class Iec61850File(ProfileFile):
    """The file of an IED of IEC 61850."""

    protocol: Literal["iec61850"]
    address: Text
    reports: list[ReportReference] = Field(default=[], max_length=20)
    points: list[Iec61850PointFile] = Field(min_length=1)
    controls: list[Iec61850ControlFile] = []


class CdtFile(ProfileFile):
    """The file of a device behind CDT, which can only be listened to."""

    protocol: Literal["cdt"]
    address: Text
    points: list[CdtPointFile] = Field(min_length=1)
    controls: list[ControlFile] = Field(default=[], max_length=0)


class AepFile(ProfileFile):
    """The file of a product on the device platform (CTWing AEP)."""

    protocol: Literal["aep"]
    points: list[AepPointFile] = Field(min_length=1)
    events: list[AepEventFile] = []
    time: AepTimeFile | None = None
    radio: AepRadioFile | None = None
    controls: list[AepControlFile] = []


# Protocols whose devices speak by themselves.

NODE_ID = re.compile(r"(?:nsu=[^;\s]+;(?:i=[0-9]+|[sgb]=\S.*)|i=[0-9]+)")
PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
IN_COMMANDS = ("device", "value", "id", "unix_s", "unix_ms")
MAX_TOPIC = 300


def _json_path(text: str) -> str:
    try:
        parse_path(text)
    except ValueError as exc:
        raise WrongValue(
            f"a path such as data.ua, $.list[0].v or $.p[?@.id=='Ua'].v ({exc})",
            f"路径,如 data.ua、$.list[0].v 或 $.p[?@.id=='Ua'].v({exc})",
        ) from None
    return text


def _node_id(text: str) -> str:
    if not NODE_ID.fullmatch(text) or set(PLACEHOLDER.findall(text)) - {"device"}:
        # An index of namespaces may be another after a restart of the server.
        raise WrongValue(
            "a node id with the namespace's URI, nsu=<uri>;s=… (not ns=<index>), with {device} for the address",
            "含命名空间 URI 的节点标识 nsu=<uri>;s=…(不用 ns=<序号>),{device} 代表设备地址",
        )
    return text


def _report_topic(text: str) -> str:
    levels = text.split("/")
    wild = any("#" in level for level in levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#")
    wild = wild or any("+" in level and level != "+" for level in levels)
    if wild or "\0" in text or text.startswith("$") or PLACEHOLDER.findall(text) not in ([], ["device"]):
        raise WrongValue("a topic filter of MQTT, with {device} at most once", "MQTT 主题过滤器,{device} 至多出现一次")
    return text


def _command_topic(text: str) -> str:
    if set(text) & {"#", "+", "\0"} or text.startswith("$") or set(PLACEHOLDER.findall(text)) - {"device"}:
        raise WrongValue(
            "a topic without wildcards, with {device} for the address", "不含通配符的主题,{device} 代表设备地址"
        )
    return text


def _payload(text: str) -> str:
    unknown = set(PLACEHOLDER.findall(text)) - set(IN_COMMANDS)
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in IN_COMMANDS)
        raise WrongValue(f"of what is filled in only {known}", f"占位符仅限 {known}")
    return text


PathText = Annotated[str, AfterValidator(_json_path)]
NodeId = Annotated[str, Field(max_length=500), AfterValidator(_node_id)]
ReportTopic = Annotated[str, Field(min_length=1, max_length=MAX_TOPIC), AfterValidator(_report_topic)]
CommandTopic = Annotated[str, Field(min_length=1, max_length=MAX_TOPIC), AfterValidator(_command_topic)]
CommandPayload = Annotated[str, Field(max_length=4000), AfterValidator(_payload)]
WholeType = Literal["Boolean", "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64"]


class WordedPointFile(PointFile):
    """A point whose value may come as a word."""

    offset: Scale = 0.0
    words: dict[str, float] | None = Field(default=None, min_length=1)


class OpcUaPointFile(WordedPointFile):
    """A variable of an OPC UA server."""

    node: NodeId
    index: int | None = Field(default=None, ge=0, le=65535)
    deadband: float | None = Field(default=None, gt=0)


class OpcUaControlFile(ControlFile):
    """A write to a variable of an OPC UA server."""

    node: NodeId
    type: WholeType | Literal["Float", "Double"]
    value: float | None


class OpcUaFile(ProfileFile):
    """The file of an OPC UA device."""

    protocol: Literal["opcua"]
    address: Text
    publishing_ms: int = Field(default=1000, ge=50, le=3_600_000)
    points: list[OpcUaPointFile] = Field(min_length=1)
    controls: list[OpcUaControlFile] = []


class MessageTimeFile(FileModel):
    """``time`` of a report."""

    path: PathText
    format: Annotated[TimeFormat, Field(strict=False)]
    zone: ZoneName | None = None
    optional: bool = False


class MqttReportFile(FileModel):
    """One sort of message."""

    topic: ReportTopic
    device: PathText | None = None
    items: PathText | None = None
    time: MessageTimeFile | None = None
    seq: PathText | None = None
    message_id: PathText | None = None


class MqttRequestFile(FileModel):
    """``read_request``."""

    topic: CommandTopic
    payload: CommandPayload


class MqttReplyFile(FileModel):
    """``reply`` of a control."""

    topic: CommandTopic
    ok: PathText
    value: bool | int | str
    id: PathText | None = None


class MqttPointFile(WordedPointFile):
    """A value in a JSON message."""

    path: PathText
    as_text: bool = False


class MqttControlFile(ControlFile):
    """A message to a command topic."""

    topic: CommandTopic
    payload: CommandPayload
    reply: MqttReplyFile | None = None


class MqttFile(ProfileFile):
    """The file of a product that sends JSON over MQTT."""

    protocol: Literal["mqtt"]
    address: Text
    reports: list[MqttReportFile] = Field(min_length=1, max_length=20)
    read_request: MqttRequestFile | None = None
    points: list[MqttPointFile] = Field(min_length=1)
    controls: list[MqttControlFile] = []


class SparkplugPointFile(WordedPointFile):
    """A metric of Sparkplug B."""

    metric: Text


class SparkplugControlFile(ControlFile):
    """A command message of Sparkplug B."""

    metric: Text
    type: Literal[
        "Boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float", "Double"
    ]
    value: float | None


class SparkplugFile(ProfileFile):
    """The file of a Sparkplug B node or device."""

    protocol: Literal["sparkplug-b"]
    address: Text
    points: list[SparkplugPointFile] = Field(min_length=1)
    controls: list[SparkplugControlFile] = []
