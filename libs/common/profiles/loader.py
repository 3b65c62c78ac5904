"""From a profile file to a profile, or to a list of everything that is wrong with it."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from pydantic import ValidationError

from libs.common.errors import InvalidFile, Problem
from libs.common.points import INTERVAL_POINTS, POINTS, PointKind, Quantity, is_point_name
from libs.common.profiles.files import (
    AepControlFile,
    AepFile,
    AepPointFile,
    CdtFile,
    Cjt188ControlFile,
    Cjt188File,
    Cjt188PointFile,
    ControlFile,
    Dlt645ControlFile,
    Dlt645File,
    Dlt645PointFile,
    Iec103File,
    Iec60870File,
    Iec61850File,
    ModbusClockFile,
    ModbusControlFile,
    ModbusFile,
    ModbusPointFile,
    MqttFile,
    OpcUaFile,
    PointFile,
    ProfileFile,
    SparkplugFile,
    StationPointFile,
    Yd1363ControlFile,
    Yd1363File,
    Yd1363PointFile,
)
from libs.common.profiles.layout import Layout, parse_layout, without_numbers
from libs.common.profiles.model import (
    RESTART,
    AepControl,
    AepEvent,
    AepPoint,
    AepProduct,
    Area,
    Cjt188Control,
    Cjt188Point,
    CloseTimer,
    Control,
    DeviceProfile,
    Dlt645Control,
    Dlt645Point,
    Encoding,
    ModbusClock,
    ModbusControl,
    ModbusPoint,
    ModbusTextPoint,
    ProfilePoint,
    Protocol,
    Ratio,
    ReadBack,
    RegisterType,
    Serial,
    WriteFunction,
    Yd1363Alarm,
    Yd1363Control,
    Yd1363Equipment,
    Yd1363Point,
    Yd1363Table,
    register_count,
    single_phase,
)
from libs.common.profiles.stations import (
    StationControlFile,
    StationFile,
    check_station,
    station_control,
    station_point,
    station_takes_value,
    with_station,
)
from libs.common.profiles.telling import (
    TellingFile,
    check_telling,
    takes_value,
    telling_control,
    telling_point,
    with_telling,
)
from libs.common.units import UnknownUnit, unit_of
from libs.common.yamlfile import Path, YamlDocument, parse_yaml, validate

AnyFile = ModbusFile | Dlt645File | Cjt188File | Yd1363File | AepFile | StationFile | TellingFile

_FILES: Mapping[str, type[AnyFile]] = {
    Protocol.MODBUS: ModbusFile,
    Protocol.DLT645: Dlt645File,
    Protocol.CJT188: Cjt188File,
    Protocol.YD1363: Yd1363File,
    Protocol.AEP: AepFile,
    Protocol.OPCUA: OpcUaFile,
    Protocol.MQTT: MqttFile,
    Protocol.SPARKPLUG: SparkplugFile,
    Protocol.IEC60870_5: Iec60870File,
    Protocol.IEC60870_5_103: Iec103File,
    Protocol.IEC61850: Iec61850File,
    Protocol.CDT: CdtFile,
}

_SINGLE_PHASE_PAIRS = tuple(
    (f"{quantity}_a", f"{quantity}_total")
    for quantity in ("active_power", "reactive_power", "apparent_power", "power_factor")
)
"""A single-phase device lists one of each pair, the loader fills the other, so that sums need not ask for phases."""

_SWITCHES: Mapping[str, Mapping[str, float]] = {
    "breaker": {"open": 0.0, "close": 1.0},
    "relay": {"open": 0.0, "close": 1.0},
    "valve": {"open": 1.0, "close": 0.0},
    "light": {"on": 1.0, "off": 0.0},
}
"""Verb of a control to the state that proves it: an open breaker has no power, an open valve lets flow."""

_AC: Mapping[str, tuple[str, float | None]] = {
    "ac_on": ("ac_power_state", 1.0),
    "ac_off": ("ac_power_state", 0.0),
    "ac_set_temperature": ("temperature_setpoint", None),
    "ac_set_mode": ("ac_mode", None),
    "ac_set_fan_speed": ("ac_fan_speed", None),
}


def parse_profile(text: str, *, name: str, source: str) -> DeviceProfile:
    """Return the profile that a file's text describes.

    Args:
        text: The file, YAML.
        name: Of the profile; the file's name without ``.yaml``.
        source: What to call the file in messages.

    Raises:
        InvalidFile: The file is wrong; every place is listed with line, field and what was expected.
    """
    document = parse_yaml(text, source)
    parsed, problems = _read(document)
    kept = {} if parsed is not None else _drop_wrong_items(document)
    readable = parsed if parsed is not None else _readable_part(document, kept)
    if readable is not None:
        checks = _Checks(document, readable, kept)
        checks.run()
        problems = [*problems, *checks.problems]
    if parsed is None or problems:
        raise InvalidFile(source, _by_line(problems))
    return _profile(parsed, name=name, version=parsed.version or content_version(text))


def content_version(text: str) -> str:
    """Return the version of a file that names none: a hash of its content, so that any change is a version."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _by_line(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.line or 0)


def _model(document: YamlDocument) -> type[AnyFile] | None:
    protocol = document.data.get("protocol") if isinstance(document.data, dict) else None
    return _FILES.get(protocol) if isinstance(protocol, str) else None


def _read(document: YamlDocument) -> tuple[AnyFile | None, list[Problem]]:
    if not isinstance(document.data, dict):
        return None, [document.problem((), "a profile: fields and their values", "设备模板:字段及其取值")]
    protocol, model = document.data.get("protocol"), _model(document)
    if model is None:
        names = ", ".join(_FILES)
        return None, [document.problem(("protocol",), f"one of {names}", f"下列之一:{names}", protocol)]
    return validate(model, document)


def _drop_wrong_items(document: YamlDocument) -> dict[str, list[int]]:
    """Return the points and controls that can be read by themselves, so that one wrong field hides no other rule."""
    model = _model(document)
    kept: dict[str, list[int]] = {}
    for name in ("points", "controls"):
        items = document.data.get(name) if isinstance(document.data, dict) else None
        if model is None or not isinstance(items, list):
            continue
        (item_model,) = get_args(model.model_fields[name].annotation)
        kept[name] = [i for i in range(len(items)) if validate(item_model, document, (name, i))[0] is not None]
    return kept


def _readable_part(document: YamlDocument, kept: Mapping[str, Sequence[int]]) -> AnyFile | None:
    """Return the file without what cannot be read, None when its head cannot."""
    model, data = _model(document), document.data
    if model is None or not isinstance(data, dict):
        return None
    part = dict(data)
    for name, numbers in kept.items():
        items = data[name]
        part[name] = [items[i] for i in numbers] if isinstance(items, list) else items
    try:
        return model.model_validate({name: value for name, value in part.items() if name in _aliases(model)})
    except ValidationError:
        return None


def _aliases(model: type[ProfileFile]) -> set[str]:
    return {info.alias or name for name, info in model.model_fields.items()}


class _Checks:
    """The rules that one field alone cannot break."""

    def __init__(self, document: YamlDocument, file: AnyFile, kept: Mapping[str, Sequence[int]]) -> None:
        """Prepare.

        Args:
            document: The file as it stands.
            file: What could be read of it.
            kept: By list, the places that the items of ``file`` have in the document; as they are where it is absent.
        """
        self.document = document
        self.file = file
        self.problems: list[Problem] = []
        self._kept = kept

    def run(self) -> None:
        self._points(self.file.points)
        if isinstance(self.file, ModbusFile):
            self._modbus(self.file)
        elif isinstance(self.file, Dlt645File):
            for i, point in enumerate(self.file.points):
                self._dlt645(i, point)
        elif isinstance(self.file, Cjt188File):
            for i, field in enumerate(self.file.points):
                self._cjt188(i, field)
        elif isinstance(self.file, StationFile):
            check_station(self.file, self._refuse)
        elif isinstance(self.file, Yd1363File):
            self._yd1363(self.file)
        elif isinstance(self.file, AepFile):
            self._aep(self.file)
        else:
            check_telling(self.file, self._refuse)
        self._controls(self.file.controls)

    def _refuse(self, path: Path, expected: str, expected_zh: str, found: object = None) -> None:
        self.problems.append(self.document.problem(self._place(path), expected, expected_zh, found))

    def _place(self, path: Path) -> Path:
        """Return where in the document something of the readable part stands."""
        match path:
            case (str(name), int(i), *rest) if name in self._kept:
                return (name, self._kept[name][i], *rest)
            case _:
                return path

    def _point_names(self) -> set[str]:
        """Return the names of all points, of the unreadable ones too."""
        items = self.document.data.get("points") if isinstance(self.document.data, dict) else None
        given = [item.get("name") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        return {name for name in given if isinstance(name, str)}

    def _points(self, points: Sequence[PointFile]) -> None:
        seen: dict[str, int | None] = {}
        for i, point in enumerate(points):
            place = ("points", i)
            if point.name in seen:
                line = seen[point.name]
                once = (f"each point once; it stands on line {line} too", f"每个测点只出现一次,该测点已在第 {line} 行")
                self._refuse((*place, "name"), *once, point.name)
            seen.setdefault(point.name, self.document.line(self._place(place)))
            self._name_and_unit(i, point)
            if point.scale == 0:
                self._refuse((*place, "scale"), "a number other than 0", "非 0 的数", point.scale)
            if point.modulus is not None and not _is_counter(point.name):
                self._refuse((*place, "modulus"), "only on a counter", "仅用于累计量的模数", point.modulus)
            of_interval = point.name in INTERVAL_POINTS
            if of_interval and point.period_s is None:
                self._refuse((*place, "period_s"), "how long each interval is, in seconds", "每个时段的秒数", None)
            elif not of_interval and (point.period_s is not None or point.stamped != "end"):
                only = f"only on {', '.join(sorted(INTERVAL_POINTS))}", f"仅用于 {'、'.join(sorted(INTERVAL_POINTS))}"
                field = "stamped" if point.period_s is None else "period_s"
                self._refuse((*place, field), *only, point.period_s or point.stamped)
            for key in point.map or {}:
                if _integer(key) is None:
                    self._refuse((*place, "map", key), "an integer as the raw value", "整数原始值", key)
                elif point.mask is not None and (_integer(key) or 0) & ~point.mask:
                    mask = f"{point.mask:#x}"
                    both = (f"a value that the mask {mask} lets through", f"掩码 {mask} 能取到的值")
                    self._refuse((*place, "map", key), *both, key)

    def _name_and_unit(self, i: int, point: PointFile) -> None:
        canonical = POINTS.get(point.name)
        if canonical is not None:
            if point.unit != canonical.unit:
                both = (f"{canonical.unit}, the unit of {point.name}", f"{canonical.unit}({point.name} 的单位)")
                self._refuse(("points", i, "unit"), *both, point.unit)
            return
        if not is_point_name(point.name):
            both = ("a canonical point name, or x_<vendor>_<name>", "标准测点名,或 x_<厂商>_<名称>")
            self._refuse(("points", i, "name"), *both, point.name)
            return
        try:
            unit_of(point.unit)
        except UnknownUnit:
            self._refuse(("points", i, "unit"), "a known unit", "已知的单位", point.unit)

    # Modbus

    def _modbus(self, file: ModbusFile) -> None:
        for key, text in file.invalid_values.items():
            self._invalid_value(key, text)
        for i, point in enumerate(file.points):
            self._modbus_point(i, point, file.max_registers_per_read)
        self._overlaps(file.points)
        for i, control in enumerate(file.controls):
            self._modbus_control(i, control)
        if file.clock is not None:
            self._modbus_clock(file.clock)

    def _modbus_clock(self, clock: ModbusClockFile) -> None:
        parts = sorted(part for register in clock.registers for part in register.split("/") if part != "-")
        if parts not in (sorted(("mo", "dd", "hh", "mi", "ss", year)) for year in ("yy", "yyyy")):
            both = ("yyyy or yy, mo, dd, hh, mi and ss, each once", "yyyy 或 yy、mo、dd、hh、mi、ss 各一次")
            self._refuse(("clock", "registers"), *both, clock.registers)
        if clock.addr + len(clock.registers) > 0x10000:
            self._refuse(("clock", "addr"), "registers up to 65535", "不超过 65535 的寄存器", clock.addr)

    def _modbus_point(self, i: int, point: ModbusPointFile, longest: int) -> None:
        place = ("points", i)
        if not self._modbus_place(place, point):
            return
        first, count = _place_of(point)
        if point.area.is_bits != (point.type is RegisterType.BOOL):
            both = (
                "bool in coil and discrete, a number in holding and input",
                "coil、discrete 区用 bool,holding、input 区用数值类型",
            )
            self._refuse((*place, "type"), *both, point.type)
            return
        if first + count - 1 > 0xFFFF:
            last = 0x10000 - count
            both = (
                f"at most {last}: a {point.type} ends beyond 65535",
                f"不大于 {last} 的地址:{point.type} 超出 65535",
            )
            self._refuse((*place, "addr"), *both, first)
        if count > longest and point.addrs is not None:
            both = (
                f"addresses within {longest} registers, the longest read: values are never read in two",
                f"地址跨度不超过单次读取上限 {longest} 个寄存器(一个值不得分两次读取)",
            )
            self._refuse((*place, "addrs"), *both, point.addrs)
        elif count > longest:
            both = (
                f"a type of at most {longest} registers, the longest read (max_registers_per_read)",
                f"不超过 {longest} 个寄存器的类型(单次读取上限 max_registers_per_read)",
            )
            self._refuse((*place, "type"), *both, point.type)
        numbers = point.type.is_float or point.type is RegisterType.STRING
        if (point.mask is not None or point.map is not None) and numbers:
            both = ("an integer where mask or map is used", "整数类型(使用了 mask 或 map)")
            self._refuse((*place, "type"), *both, point.type)
        if point.encoding is not None and not point.type.is_float:
            both = (f"a float for {Encoding.SCHNEIDER_4Q_PF}", f"浮点类型({Encoding.SCHNEIDER_4Q_PF} 要求)")
            self._refuse((*place, "encoding"), *both, point.type)

    def _modbus_place(self, place: Path, point: ModbusPointFile) -> bool:
        """Check that a point says where it is, once; return whether it does."""
        if (point.addr is None) == (point.addrs is None):
            both = ("either addr or, for registers that lie apart, addrs", "addr,或(寄存器不相邻时)addrs,二者取一")
            self._refuse((*place, "addr"), *both)
            return False
        if point.type is RegisterType.STRING:
            if point.count is None or point.addr is None:
                both = ("addr and count, the string's registers", "addr 和 count(字符串占用的寄存器数)")
                self._refuse((*place, "count"), *both, point.count)
                return False
            canonical = POINTS.get(point.name)
            if canonical is not None and canonical.kind is not PointKind.TEXT:
                both = ("the name of a text, or x_<vendor>_<name>", "文本类测点名,或 x_<厂商>_<名称>")
                self._refuse((*place, "name"), *both, point.name)
            return True
        if point.count is not None:
            self._refuse((*place, "count"), "only with type: string", "仅与 type: string 一起填写", point.count)
            return False
        if point.addrs is not None and (
            len(set(point.addrs)) != register_count(point.type) or len(point.addrs) != register_count(point.type)
        ):
            count = register_count(point.type)
            both = (f"{count} different addresses, those of a {point.type}", f"{point.type} 的 {count} 个不同地址")
            self._refuse((*place, "addrs"), *both, point.addrs)
            return False
        return True

    def _overlaps(self, points: Sequence[ModbusPointFile]) -> None:
        """Refuse values that share some of their registers but not all: one of the addresses is wrong."""
        placed = sorted(
            ((p.area, *_place_of(p), i) for i, p in enumerate(points) if p.addr is not None),
            key=lambda item: (item[0], item[1], -item[2]),
        )
        for (area, addr, count, _), (next_area, next_addr, next_count, i) in itertools.pairwise(placed):
            same = (next_addr, next_count) == (addr, count)
            if area == next_area and next_addr < addr + count and not same:
                both = (
                    f"an address that does not cut into the value at {addr:#06x}",
                    f"不与 {addr:#06x} 处的值部分重叠的地址",
                )
                self._refuse(("points", i, "addr"), *both, f"{next_addr:#06x}")

    def _invalid_value(self, key: str, text: str) -> None:
        if not _types_of(key):
            names = ", ".join(["signed", "unsigned", "float", *RegisterType])
            self._refuse(("invalid_values", key), f"one of {names}", f"下列之一:{names}", key)
        elif any(_marker(text, type_) is None for type_ in _types_of(key)):
            both = (
                "0x1234, 0x7FFF... or 'all bits 1', of the type's width",
                "与类型等宽的 0x1234、0x7FFF... 或 'all bits 1'",
            )
            self._refuse(("invalid_values", key), *both, text)

    def _modbus_control(self, i: int, control: ModbusControlFile) -> None:
        place = ("controls", i)
        if (control.area == "coil") != (control.function in (WriteFunction.COIL, WriteFunction.COILS)):
            both = (f"a write that fits the area {control.area}", f"适用于 {control.area} 区的写功能")
            self._refuse((*place, "function"), *both, control.function)
        if control.values is not None:
            self._modbus_values(place, control, control.values)
            return
        if control.type is not None:
            self._modbus_value_type(place, control, control.type)
        if control.area == "coil" and control.value not in (0x0000, 0xFF00):
            # 0x5500 toggles on some relays: a repeated toggle undoes itself, so it is never sent.
            self._refuse((*place, "value"), "0xFF00 or 0x0000 for a coil", "线圈只能写 0xFF00 或 0x0000", control.value)
        if control.value is None and (control.min is None or control.max is None):
            both = ("a value, or min and max for a value from outside", "固定值;取外部值时须有 min 和 max")
            self._refuse((*place, "value"), *both)

    def _modbus_values(self, place: Path, control: ModbusControlFile, values: Sequence[int]) -> None:
        """Check a write of several fixed words."""
        if not control.function.is_multiple:
            both = ("only with write_multiple_registers or write_multiple_coils", "仅用于写多个寄存器或写多个线圈")
            self._refuse((*place, "values"), *both, control.function)
        if control.value is not None or control.type is not None:
            both = ("values alone, without value or type", "values 不得与 value、type 同用")
            self._refuse((*place, "values"), *both)
        if control.area == "coil" and not set(values) <= {0, 1}:
            self._refuse((*place, "values"), "0 and 1 for coils", "线圈只能为 0 或 1", values)
        if control.addr + len(values) > 0x10000:
            self._refuse((*place, "values"), "an end at 65535 at most", "末地址不超过 65535", control.addr)

    def _modbus_value_type(self, place: Path, control: ModbusControlFile, type_: RegisterType) -> None:
        """Check how a command's value is written."""
        if control.value is not None or type_ in (RegisterType.BOOL, RegisterType.STRING):
            both = ("a number's type, for a value from outside", "数值类型,且仅用于取外部值的控制")
            self._refuse((*place, "type"), *both, type_)
        elif register_count(type_) > 1 and control.function is not WriteFunction.REGISTERS:
            both = (f"write_multiple_registers for a {type_}", f"{type_} 须用 write_multiple_registers")
            self._refuse((*place, "function"), *both, control.function)

    # DL/T 645 and CJ/T 188

    def _dlt645(self, i: int, point: Dlt645PointFile) -> None:
        place = ("points", i)
        if point.bit is not None:
            if point.format != "bitmap":
                self._refuse((*place, "bit"), "only with format: bitmap", "仅在 format: bitmap 时填写", point.bit)
            elif point.bit >= point.bytes * 8:
                width = point.bytes * 8
                both = (f"below {width}, the width of the value", f"小于值的位宽 {width}")
                self._refuse((*place, "bit"), *both, point.bit)
        elif point.invert:
            self._refuse((*place, "invert"), "only with a bit", "仅与 bit 一起填写")
        self._digits(place, point.format, point.bytes, point.scale)

    def _cjt188(self, i: int, point: Cjt188PointFile) -> None:
        place = ("points", i)
        self._digits(place, point.format, point.bytes, point.scale)
        after = point.offset + point.bytes
        if point.unit_byte_offset is not None and point.unit_byte_offset != after:
            both = (f"{after}, the byte after the value", f"{after}(值之后的字节)")
            self._refuse((*place, "unit_byte_offset"), *both, point.unit_byte_offset)

    def _digits(self, place: Path, format_: str, byte_count: int, scale: float) -> None:
        """Check a BCD picture against its length and its scale."""
        if not _PICTURE.match(format_):
            return
        if len(format_.replace(".", "")) != byte_count * 2:
            both = (f"{byte_count * 2} digits in {byte_count} bytes", f"{byte_count} 字节对应 {byte_count * 2} 位数字")
            self._refuse((*place, "format"), *both, format_)
        wanted = 10.0 ** -decimals(format_)
        if not math.isclose(scale, wanted):
            both = (f"{wanted:g}, the last digit of {format_}", f"{wanted:g}({format_} 的末位)")
            self._refuse((*place, "scale"), *both, scale)

    # YD/T 1363.3

    def _yd1363(self, file: Yd1363File) -> None:
        layouts: dict[str, Layout] = {}
        for i, table in enumerate(file.tables):
            if table.name in layouts:
                self._refuse(("tables", i, "name"), "each table once", "每个表只出现一次", table.name)
            try:
                layouts[table.name] = parse_layout(table.layout)
            except ValueError as exc:
                self._refuse(("tables", i, "layout"), f"a layout: {exc}", f"数据布局:{exc}", table.layout)
        for i, point in enumerate(file.points):
            self._yd1363_field(("points", i), layouts, point.table, point.field, every=False)
        for i, alarm in enumerate(file.alarms):
            self._yd1363_field(("alarms", i), layouts, alarm.table, alarm.field, every=True)
            groups = re.findall(r"([a-z][a-z0-9_]*)\[\*\]", alarm.field)
            if set(_names_in(alarm.code)) != set(groups):
                both = (
                    f"the number of each group that is repeated: {', '.join(f'{{{g}}}' for g in groups) or 'none'}",
                    f"每个重复组的编号:{', '.join(f'{{{g}}}' for g in groups) or '无'}",
                )
                self._refuse(("alarms", i, "code"), *both, alarm.code)
            for key in alarm.values or {}:
                if _integer(key) is None or not 0 < (_integer(key) or 0) <= 0xFF:
                    self._refuse(("alarms", i, "values", key), "a byte other than 0", "非 0 的字节", key)
        for i, control in enumerate(file.controls):
            if control.value_type is not None and (control.min is None or control.max is None):
                both = ("min and max for a value from outside", "取外部值时须有 min 和 max")
                self._refuse(("controls", i, "value_type"), *both)

    def _yd1363_field(self, place: Path, layouts: Mapping[str, Layout], table: str, field: str, *, every: bool) -> None:
        """Refuse a way that the table's layout does not have, or that does not say which of a group is meant."""
        if table not in layouts:
            if any(table == one.name for one in getattr(self.file, "tables", ())):
                return  # its layout is wrong, and that is said already
            self._refuse((*place, "table"), "a table of this profile", "本模板中的表", table)
            return
        fields = layouts[table].fields()
        *groups, last = field.split(".")
        numbered = all(_NUMBERED.fullmatch(group) and (every or "*" not in group) for group in groups)
        if not numbered or "[" in last or without_numbers(field) not in fields:
            both = (
                f"a field of table {table}: {', '.join(fields)}, groups with their number",
                f"表 {table} 中的字段:{', '.join(fields)},重复组须带编号",
            )
            self._refuse((*place, "field"), *both, field)

    # CTWing AEP

    def _aep(self, file: AepFile) -> None:
        places: dict[tuple[str | None, str], int] = {}
        for i, point in enumerate(file.points):
            first = places.setdefault((point.service, point.param), i)
            same = first != i and point.mask is None
            if same:
                both = (
                    f"a parameter once; points[{first}] reads it too (bits of one are told apart by mask)",
                    f"每个参数只读一次,points[{first}] 已读取(按位区分时用 mask)",
                )
                self._refuse(("points", i, "param"), *both, point.param)
        seen: set[tuple[str, str | None]] = set()
        for i, event in enumerate(file.events):
            if (event.service, event.param) in seen:
                self._refuse(("events", i, "service"), "each event once", "每个事件只出现一次", event.service)
            seen.add((event.service, event.param))
            if event.param is not None and event.begin == event.end:
                self._refuse(("events", i, "end"), "another value than begin", "与 begin 不同的值", event.end)
        for i, control in enumerate(file.controls):
            taken = [name for name, value in control.params.items() if value is None]
            if len(taken) > 1:
                both = ("at most one parameter that takes the command's value", "至多一个参数取指令的值")
                self._refuse(("controls", i, "params", taken[1]), *both)
            if taken and (control.min is None or control.max is None):
                both = ("min and max for a value from outside", "取外部值时须有 min 和 max")
                self._refuse(("controls", i, "params", taken[0]), *both)

    # controls

    def _controls(self, controls: Sequence[ControlFile]) -> None:
        names = self._point_names()
        seen: set[str] = set()
        for i, control in enumerate(controls):
            place = ("controls", i)
            if control.name in seen:
                self._refuse((*place, "name"), "each control once", "每个控制只出现一次", control.name)
            seen.add(control.name)
            read_back = _read_back(control, names)
            if read_back is None:
                both = (
                    "a control with a read-back point in the same profile, by its name or by read_back",
                    "在同一模板中有回读测点的控制(按名称对应,或用 read_back 指明)",
                )
                self._refuse((*place, "name"), *both, control.name)
                continue
            for name in read_back.points:
                if name not in names:
                    self._refuse((*place, "read_back", "points"), "points of this profile", "本模板的测点", name)
            if control.name == RESTART and _takes_value(control):
                both = ("a fixed value, since a restart takes none", "固定值(重启不带数值)")
                self._refuse((*place, "value"), *both, None)
            if read_back.value is None and not _takes_value(control):
                both = ("a value, since the control writes a fixed one", "一个值(该控制写固定值)")
                self._refuse((*place, "read_back"), *both, control.name)
            if control.timer is not None:
                self._close_timer((*place, "timer", "control"), control, control.timer.control, controls)

    def _close_timer(self, place: Path, control: ControlFile, name: str, controls: Sequence[ControlFile]) -> None:
        """Check that a time can be written, and is seen: a timer that nobody can prove is no protection."""
        taken = _read_back(control, self._point_names())
        if taken is None or taken.value != 0:
            both = ("a control that takes a load off, as breaker_open", "断电类控制,如 breaker_open")
            self._refuse(place, *both, control.name)
        found = next((one for one in controls if one.name == name), None)
        back = None if found is None else _read_back(found, self._point_names())
        if found is None or back is None or back.value is not None or not _takes_value(found):
            both = (
                "a control of this profile that takes a value, with a read-back point",
                "本模板中带数值且有回读测点的控制",
            )
            self._refuse(place, *both, name)
            return
        least, most, clear = found.min, found.max, 0.0 if control.timer is None else control.timer.clear
        if (least is not None and clear < least) or (most is not None and clear > most):
            both = (f"what stops the timer within {least} to {most}", f"停止定时的值应在 {least} 到 {most} 之内")
            self._refuse((*place[:-1], "clear"), *both, f"{clear:g}")
        unit = next((point.unit for point in self.file.points if point.name == back.points[0]), None)
        if unit != "s":
            self._refuse(
                place, "a read-back point in s", "以 s 为单位的回读测点", f"{back.points[0]} {unit or ''}".strip()
            )


def _takes_value(control: ControlFile) -> bool:
    """Return whether a control writes what the command says, and no value of its own."""
    if isinstance(control, AepControlFile):
        return None in control.params.values()
    if isinstance(control, Yd1363ControlFile):
        return control.value_type is not None
    if isinstance(control, ModbusControlFile):
        return control.value is None and control.values is None
    return takes_value(control) or station_takes_value(control)


_NUMBERED = re.compile(r"[a-z][a-z0-9_]*\[(?:[1-9][0-9]*|\*)\]")
_PICTURE = re.compile(r"^[XN]+(\.[XN]+)?$")


def decimals(format_: str) -> int:
    """Return the digits after the point of a BCD picture: 2 for ``XXXXXX.XX``."""
    return len(format_.partition(".")[2])


def _is_counter(name: str) -> bool:
    return name in POINTS and POINTS[name].kind is PointKind.COUNTER


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _types_of(key: str) -> list[RegisterType]:
    """Return the register types that a key of ``invalid_values`` stands for."""
    whole = [t for t in RegisterType if not t.is_float and t not in (RegisterType.BOOL, RegisterType.STRING)]
    match key:
        case "signed":
            return [t for t in whole if t.is_signed]
        case "unsigned":
            return [t for t in whole if not t.is_signed]
        case "float":
            return [t for t in RegisterType if t.is_float]
        case _:
            return [t for t in RegisterType if t == key and (t in whole or t.is_float)]


def _marker(text: str, type_: RegisterType) -> int | None:
    """Return the bit pattern that a marker means for a type, None when it does not fit.

    ``0x7FFF...`` is filled up with its last digit to the width; ``NaN`` before a pattern is for people, every NaN
    is invalid anyway.
    """
    text = text.removeprefix("NaN").strip()
    if text == "all bits 1":
        return (1 << type_.bits) - 1
    match = re.fullmatch(r"0x([0-9A-Fa-f]+)(\.\.\.)?", text)
    if match is None:
        return None
    digits = match[1]
    width = type_.bits // 4
    if match[2]:
        digits = digits.ljust(width, digits[-1])
    return int(digits, 16) if len(digits) == width else None


def _read_back(control: ControlFile, names: Iterable[str]) -> ReadBack | None:
    """Return what proves a control: as the file says, else by the control's name."""
    if control.name == RESTART:
        return ReadBack(points=(), value=0.0)
    if control.read_back is not None:
        return ReadBack(points=tuple(control.read_back.points), value=control.read_back.value)
    known = set(names)
    if control.name in _AC:
        point, value = _AC[control.name]
        return ReadBack(points=(point,), value=value) if point in known else None
    subject, _, verb = control.name.rpartition("_")
    state = _SWITCHES.get(subject.partition("_")[0], {}).get(verb)
    if state is None:
        return None
    if subject == "relay_all":
        relays = tuple(sorted((n for n in known if re.fullmatch(r"relay_[0-9]+_state", n)), key=_channel))
        return ReadBack(points=relays, value=state) if relays else None
    return ReadBack(points=(f"{subject}_state",), value=state) if f"{subject}_state" in known else None


def _channel(relay: str) -> int:
    return int(relay.split("_")[1])


# From the checked file to the profile.


def _profile(file: AnyFile, *, name: str, version: str) -> DeviceProfile:
    points = {point.name: _of_interval(_point(point, file), point) for point in file.points}
    if file.category == "meter_1p" or single_phase(points):
        points = _with_other_of_pair(points)
    controls = {control.name: _with_timer(control, _control(control, points)) for control in file.controls}
    common = DeviceProfile(
        name=name,
        version=version,
        vendor=file.vendor,
        vendor_zh=file.vendor_zh,
        model=file.model,
        category=file.category,
        protocol=Protocol(file.protocol),
        transports=frozenset(file.transports),
        confidence=file.confidence,
        points=points,
        controls=controls,
        serial=_serial(file),
        side=file.side,
        feedback=tuple(file.feedback),
        notes=tuple(file.notes),
        sources=tuple(file.source),
    )
    if isinstance(file, ModbusFile):
        return replace(
            common,
            ratio=_ratio(file),
            unit_id=file.unit_id_default,
            byte_order=file.byte_order,
            word_order=file.word_order,
            max_registers_per_read=file.max_registers_per_read,
            clock=None
            if file.clock is None
            else ModbusClock(
                file.clock.addr, tuple(tuple(register.split("/")) for register in file.clock.registers), file.clock.zone
            ),
        )
    if isinstance(file, Dlt645File):
        return replace(common, address_hint=file.address)
    if isinstance(file, StationFile):
        return with_station(common, file)
    if isinstance(file, AepFile):
        return replace(common, aep=_aep_product(file))
    if isinstance(file, Yd1363File):
        return replace(common, address_hint=file.address, yd1363=_equipment(file))
    if isinstance(file, Cjt188File):
        return replace(
            common, address_hint=file.address, meter_type=int(file.meter_type, 16), read_di=int(file.read_di, 16)
        )
    return with_telling(common, file)


def _of_interval(built: ProfilePoint, point: PointFile) -> ProfilePoint:
    """Return a point with the length of the interval that it is the energy of."""
    if point.period_s is None:
        return built
    return replace(built, period_s=point.period_s, stamped_at_start=point.stamped == "start")


def _point(point: PointFile, file: ProfileFile) -> ProfilePoint:
    mapped = None if point.map is None else {int(key, 0): value for key, value in point.map.items()}
    counter = _is_counter(point.name)
    if isinstance(point, ModbusPointFile) and point.type is RegisterType.STRING:
        first, count = _place_of(point)
        return ModbusTextPoint(
            name=point.name, unit=point.unit, optional=point.optional, slow=True, note=point.note,
            area=point.area, address=first, count=count,
        )  # fmt: skip
    if isinstance(point, ModbusPointFile) and isinstance(file, ModbusFile):
        return ModbusPoint(
            name=point.name,
            unit=point.unit,
            scale=point.scale,
            mask=point.mask,
            value_map=mapped,
            optional=point.optional,
            slow=point.slow,
            modulus=point.modulus or (_register_modulus(point) if counter else None),
            note=point.note,
            area=point.area,
            address=_place_of(point)[0],
            parts=tuple(point.addrs or ()),
            type=point.type,
            offset=point.offset,
            encoding=point.encoding,
            invalid_raw=frozenset(
                marker
                for key, text in file.invalid_values.items()
                if point.type in _types_of(key) and (marker := _marker(text, point.type)) is not None
            ),
        )
    if isinstance(point, Dlt645PointFile):
        return Dlt645Point(
            name=point.name,
            unit=point.unit,
            scale=point.scale,
            mask=point.mask,
            value_map=mapped,
            optional=point.optional,
            slow=point.slow,
            modulus=point.modulus or (_picture_modulus(point.format) if counter else None),
            note=point.note,
            di=point.di,
            byte_count=point.bytes,
            format=point.format,
            signed=point.signed,
            bit=point.bit,
            invert=point.invert,
        )
    if isinstance(point, Cjt188PointFile):
        return Cjt188Point(
            name=point.name,
            unit=point.unit,
            scale=point.scale,
            mask=point.mask,
            value_map=mapped,
            optional=point.optional,
            slow=point.slow,
            # The unit travels with the value and may change the register's range with it: only the
            # profile's author can know the modulus.
            modulus=point.modulus,
            note=point.note,
            data_offset=point.offset,
            byte_count=point.bytes,
            format=point.format,
            unit_byte_offset=point.unit_byte_offset,
        )
    if isinstance(point, StationPointFile):
        return station_point(point, mapped)
    if isinstance(point, Yd1363PointFile):
        return Yd1363Point(
            name=point.name,
            unit=point.unit,
            scale=point.scale,
            mask=point.mask,
            value_map=mapped,
            optional=point.optional,
            slow=point.slow,
            modulus=point.modulus,
            note=point.note,
            table=point.table,
            field=point.field,
            offset=point.offset,
        )
    if isinstance(point, AepPointFile):
        return AepPoint(
            name=point.name,
            unit=point.unit,
            scale=point.scale,
            mask=point.mask,
            value_map=mapped,
            optional=point.optional,
            slow=point.slow,
            # What comes is a number in JSON, which has no width; only the profile's author can know the modulus.
            modulus=point.modulus,
            note=point.note,
            service=point.service,
            param=point.param,
        )
    return telling_point(point, mapped)


def _equipment(file: Yd1363File) -> Yd1363Equipment:
    tables = {
        table.name: Yd1363Table(
            name=table.name,
            cid2=table.cid2,
            info=bytes.fromhex(table.info),
            layout=parse_layout(table.layout),
            slow=table.slow,
            optional=table.optional,
        )
        for table in file.tables
    }
    alarms = tuple(
        Yd1363Alarm(
            table=alarm.table,
            field=alarm.field,
            code=alarm.code,
            text=alarm.text,
            text_zh=alarm.text_zh,
            severity=alarm.severity,
            values=ALARM_BYTES if alarm.values is None else {int(key, 0): name for key, name in alarm.values.items()},
        )
        for alarm in file.alarms
    )
    return Yd1363Equipment(file.cid1, file.protocol_version, tables, alarms)


ALARM_BYTES: Mapping[int, str] = {
    0x01: "low",
    0x02: "high",
    0x03: "phase_loss",
    0x04: "fuse_blown",
    0x05: "switch_open",
    0xF0: "fault",
}
"""Bytes of YD/T 1363.3 alarms other than 00, normal."""


def _names_in(text: str) -> list[str]:
    return re.findall(r"\{([a-z][a-z0-9_]*)\}", text)


def _aep_product(file: AepFile) -> AepProduct:
    time, radio = file.time, file.radio
    return AepProduct(
        events=tuple(AepEvent(**event.model_dump()) for event in file.events),
        time_param=None if time is None else time.param,
        time_unit="ms" if time is None else time.unit,
        cell_id_param=None if radio is None else radio.cell_id,
        pci_param=None if radio is None else radio.pci,
    )


def _place_of(point: ModbusPointFile) -> tuple[int, int]:
    """Return the first address of a point and how many it takes, those between its parts included."""
    if point.addrs is not None:
        return min(point.addrs), max(point.addrs) - min(point.addrs) + 1
    count = 1 if point.type is RegisterType.STRING else register_count(point.type)
    return point.addr or 0, point.count or count


def _register_modulus(point: ModbusPointFile) -> float | None:
    """Return the first value that an integer register cannot show; a float's is not in its type."""
    if point.type.is_float or point.type is RegisterType.BOOL:
        return None
    bits = point.type.bits - 1 if point.type.is_signed else point.type.bits
    return float(1 << bits) * point.scale


def _picture_modulus(format_: str) -> float | None:
    """Return the first value that a BCD picture cannot show: 1,000,000 for ``XXXXXX.XX``."""
    if not _PICTURE.match(format_):
        return None
    return 10.0 ** len(format_.partition(".")[0])


def _with_other_of_pair(points: Mapping[str, ProfilePoint]) -> dict[str, ProfilePoint]:
    """Return the points of a single-phase device with the missing one of each pair filled from the other."""
    filled = dict(points)
    for pair in _SINGLE_PHASE_PAIRS:
        for missing, present in (pair, pair[::-1]):
            if missing not in points and present in points:
                filled[missing] = replace(points[present], name=missing, copy_of=present)
    return filled


def _with_timer(file: ControlFile, control: Control) -> Control:
    if file.timer is None:
        return control
    timer = CloseTimer(control=file.timer.control, step_s=file.timer.step_s, clear=file.timer.clear)
    return replace(control, timer=timer)


def _control(control: ControlFile, points: Mapping[str, ProfilePoint]) -> Control:
    read_back = _read_back(control, points)
    if read_back is None:
        raise TypeError(f"{control.name} passed the checks without a read-back point")
    if isinstance(control, ModbusControlFile):
        return ModbusControl(
            name=control.name,
            read_back=read_back,
            settle_s=control.settle_s,
            verify_within_s=control.verify_within_s,
            min=control.min,
            max=control.max,
            note=control.note,
            function=control.function,
            area=Area(control.area),
            address=control.addr,
            value=control.value,
            values=tuple(control.values or ()),
            type=control.type,
        )
    if isinstance(control, Dlt645ControlFile):
        return Dlt645Control(
            name=control.name,
            read_back=read_back,
            settle_s=control.settle_s,
            verify_within_s=control.verify_within_s,
            min=control.min,
            max=control.max,
            note=control.note,
            control_code=control.control_code,
            n1=int(control.n1, 16),
            password_level=int(control.password_level, 16),
        )
    if isinstance(control, Cjt188ControlFile):
        return Cjt188Control(
            name=control.name,
            read_back=read_back,
            settle_s=control.settle_s,
            verify_within_s=control.verify_within_s,
            min=control.min,
            max=control.max,
            note=control.note,
            control_code=control.control_code,
            di=control.di,
            data=bytes.fromhex(control.data),
        )
    if isinstance(control, Yd1363ControlFile):
        return Yd1363Control(
            name=control.name,
            read_back=read_back,
            settle_s=control.settle_s,
            verify_within_s=control.verify_within_s,
            min=control.min,
            max=control.max,
            note=control.note,
            cid2=control.cid2,
            info=bytes.fromhex(control.info),
            value_type=control.value_type,
        )
    if isinstance(control, AepControlFile):
        return AepControl(
            name=control.name,
            read_back=read_back,
            settle_s=control.settle_s,
            verify_within_s=control.verify_within_s,
            min=control.min,
            max=control.max,
            note=control.note,
            service=control.service,
            params=dict(control.params),
            ttl_s=control.ttl_s,
        )
    if isinstance(control, StationControlFile):
        return station_control(control, read_back)
    return telling_control(control, read_back)


def _serial(file: ProfileFile) -> Serial | None:
    default = file.serial_default
    if default is None:
        return None
    return Serial(baud=default.baud, data_bits=default.data, parity=default.parity, stop_bits=default.stop)


def _ratio(file: ModbusFile) -> Ratio | None:
    ratio = file.ratio
    if ratio is None:
        return None
    return Ratio(
        applied_by_meter=ratio.applied_by_meter,
        ct_register=None if ratio.ct_register is None else int(ratio.ct_register, 16),
        pt_register=None if ratio.pt_register is None else int(ratio.pt_register, 16),
        apply_to=frozenset(Quantity(name) for name in ratio.apply_to or ()),
    )
