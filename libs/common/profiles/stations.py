"""Profiles of devices behind telecontrol stations: IEC 60870-5-101, -103 and -104, IEC 61850, CDT."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from libs.common.profiles.files import (
    CdtFile,
    CdtPointFile,
    ChangeEventFile,
    ControlFile,
    Iec103ControlFile,
    Iec103File,
    Iec103PointFile,
    Iec60870ControlFile,
    Iec60870File,
    Iec60870PointFile,
    Iec61850ControlFile,
    Iec61850File,
    Iec61850PointFile,
    PointFile,
    StationPointFile,
)
from libs.common.profiles.model import (
    CdtElement,
    CdtPoint,
    ChangeEvent,
    Control,
    DeviceProfile,
    Iec60870Control,
    Iec60870Point,
    Iec61850Control,
    Iec61850Point,
    ObjectType,
    ProfilePoint,
    ReadBack,
    StationPoint,
)
from libs.common.yamlfile import Path

StationFile = Iec60870File | Iec103File | Iec61850File | CdtFile
StationControlFile = Iec60870ControlFile | Iec103ControlFile | Iec61850ControlFile
Refuse = Callable[[Path, str, str, object], None]


def iec103_address(function: int, information: int, index: int | None = None) -> int:
    """Return the object address under which information of 103 is kept, as if it were of 101.

    Args:
        function: Function type.
        information: Information number.
        index: Place of a measurand in its row, from 0; None for a state or a command.
    """
    return (0 if index is None else index + 1) << 16 | function << 8 | information


DOUBLE_POSITIONS: Mapping[int, float] = {1: 0.0, 2: 1.0}
"""Off and on of a double point; its other two values are no positions."""
CDT_COUNTS: Mapping[CdtElement, int] = {CdtElement.TELEMETRY: 256, CdtElement.STATE: 512, CdtElement.COUNTER: 64}
"""How many of each sort the function codes of CDT leave room for."""


def check_station(file: StationFile, refuse: Refuse) -> None:
    """Refuse what one field alone cannot break."""
    if isinstance(file, Iec60870File):
        _check_objects(file, refuse)
        _check_commands(file, refuse)
    elif isinstance(file, Iec103File):
        _check_information(file, refuse)
    elif isinstance(file, Iec61850File):
        _check_attributes(file, refuse)
    else:
        _check_cdt(file, refuse)


def station_takes_value(control: ControlFile) -> bool:
    """Return whether a control of these protocols writes the value of its command, not a fixed one."""
    return isinstance(control, Iec60870ControlFile | Iec61850ControlFile) and control.value is None


def with_station(common: DeviceProfile, file: StationFile) -> DeviceProfile:
    """Return a profile with what only its protocol has."""
    single_read = isinstance(file, Iec60870File) and file.single_read
    blocks = tuple(file.reports) if isinstance(file, Iec61850File) else ()
    return replace(common, address_hint=file.address, single_read=single_read, control_blocks=blocks)


def station_point(point: StationPointFile, value_map: Mapping[int, float] | None) -> ProfilePoint:
    """Return a point of one of these protocols."""
    common = StationPoint(
        name=point.name,
        unit=point.unit,
        scale=point.scale,
        offset=point.offset,
        mask=point.mask,
        value_map=value_map,
        optional=point.optional,
        slow=point.slow,
        # A station counts in bits of its own; where the meter behind it rolls over only the profile's author knows.
        modulus=point.modulus,
        note=point.note,
        event=_event(point.event, point.name),
    )
    shared = {name: getattr(common, name) for name in StationPoint.__dataclass_fields__}
    match point:
        case Iec60870PointFile():
            if point.type is ObjectType.DOUBLE and value_map is None:
                shared["value_map"] = DOUBLE_POSITIONS
            return Iec60870Point(**shared, object_address=point.ioa, type=point.type)
        case Iec103PointFile(type="state"):
            if value_map is None:
                shared["value_map"] = DOUBLE_POSITIONS
            return Iec60870Point(**shared, object_address=iec103_address(point.fun, point.inf), type=ObjectType.DOUBLE)
        case Iec103PointFile():
            address = iec103_address(point.fun, point.inf, point.index or 0)
            return Iec60870Point(**shared, object_address=address, type=ObjectType.NORMALISED)
        case Iec61850PointFile():
            return Iec61850Point(**shared, reference=point.ref, constraint=point.fc)
        case CdtPointFile():
            return CdtPoint(**shared, element=point.element, number=point.number)
        case _:
            raise TypeError(f"{type(point).__name__} is no point of a known protocol")


def station_control(control: StationControlFile, read_back: ReadBack) -> Control:
    """Return a control of one of these protocols."""
    common = Control(
        name=control.name,
        read_back=read_back,
        settle_s=control.settle_s,
        verify_within_s=control.verify_within_s,
        min=control.min,
        max=control.max,
        note=control.note,
    )
    shared = {name: getattr(common, name) for name in Control.__dataclass_fields__}
    match control:
        case Iec60870ControlFile():
            return Iec60870Control(
                **shared,
                object_address=control.ioa,
                type=ObjectType(control.type),
                value=control.value,
                select=control.select,
                qualifier=control.qualifier,
                termination=control.termination,
                timed=control.timed,
            )
        case Iec103ControlFile():
            return Iec60870Control(
                **shared,
                object_address=iec103_address(control.fun, control.inf),
                type=ObjectType.DOUBLE,
                value=control.value,
                select=False,
                qualifier=0,
                termination=False,
                timed=False,
            )
        case Iec61850ControlFile():
            return Iec61850Control(
                **shared,
                reference=control.ref,
                model=control.model,
                value=control.value,
                interlock_check=control.interlock_check,
            )


def _check_objects(file: Iec60870File, refuse: Refuse) -> None:
    seen: dict[int, Iec60870PointFile] = {}
    for i, point in enumerate(file.points):
        other = seen.setdefault(point.ioa, point)
        if other is not point and (point.mask is None or other.mask is None):
            both = (f"an object once; {other.name} is it too", f"每个信息对象只用一次,{other.name} 已使用")
            refuse(("points", i, "ioa"), *both, point.ioa)
        if not point.type.is_whole:
            _refuse_masks(i, point, refuse)
        if point.event is not None and point.type not in (ObjectType.SINGLE, ObjectType.DOUBLE):
            both = ("single or double where changes are events", "single 或 double(变位为事件)")
            refuse(("points", i, "type"), *both, point.type)


def _check_information(file: Iec103File, refuse: Refuse) -> None:
    seen: dict[int, Iec103PointFile] = {}
    for i, point in enumerate(file.points):
        measurand = point.type == "measurand"
        if measurand != (point.index is not None):
            both = ("with a measurand, its place in the row from 0", "仅用于 measurand,从 0 起的序号")
            refuse(("points", i, "index"), *both, point.index)
        other = seen.setdefault(iec103_address(point.fun, point.inf, point.index), point)
        if other is not point:
            both = (f"information once; {other.name} is it too", f"每个信息只用一次,{other.name} 已使用")
            refuse(("points", i, "inf"), *both, point.inf)
        if measurand:
            _refuse_masks(i, point, refuse)
        if point.event is not None and measurand:
            both = ("state where changes are events", "state(变位为事件)")
            refuse(("points", i, "type"), *both, point.type)


def _check_commands(file: Iec60870File, refuse: Refuse) -> None:
    for i, control in enumerate(file.controls):
        fixed = {"single": (0, 1), "double": (1, 2)}.get(control.type)
        place = ("controls", i, "value")
        if fixed is not None and control.value not in fixed:
            words = " or ".join(map(str, fixed))
            refuse(place, words, words.replace("or", "或"), control.value)
        elif fixed is None and (control.value is not None or control.min is None or control.max is None):
            both = ("null, with min and max: a set point takes the command's value", "null,并给出 min 和 max")
            refuse(place, *both, control.value)


def _check_attributes(file: Iec61850File, refuse: Refuse) -> None:
    seen: dict[str, Iec61850PointFile] = {}
    for i, point in enumerate(file.points):
        other = seen.setdefault(point.ref, point)
        if other is not point and (point.mask is None or other.mask is None):
            both = (f"an attribute once; {other.name} is it too", f"每个属性只用一次,{other.name} 已使用")
            refuse(("points", i, "ref"), *both, point.ref)
    for i, control in enumerate(file.controls):
        if control.value is None and (control.min is None or control.max is None):
            both = ("a value, or min and max for a value from outside", "固定值;取外部值时须有 min 和 max")
            refuse(("controls", i, "value"), *both, None)


def _check_cdt(file: CdtFile, refuse: Refuse) -> None:
    seen: dict[tuple[CdtElement, int], CdtPointFile] = {}
    for i, point in enumerate(file.points):
        most = CDT_COUNTS[point.element] - 1
        if point.number > most:
            both = (f"0 to {most} for {point.element}", f"0 至 {most}({point.element})")
            refuse(("points", i, "number"), *both, point.number)
        other = seen.setdefault((point.element, point.number), point)
        if other is not point and (point.mask is None or other.mask is None):
            both = (f"a value once; {other.name} is it too", f"每个值只用一次,{other.name} 已使用")
            refuse(("points", i, "number"), *both, point.number)
        if point.event is not None and point.element is not CdtElement.STATE:
            both = ("state where changes are events", "state(变位为事件)")
            refuse(("points", i, "element"), *both, point.element)


def _refuse_masks(i: int, point: PointFile, refuse: Refuse) -> None:
    if point.mask is not None or point.map is not None:
        both = ("a whole number where mask or map is used", "整数类型(使用了 mask 或 map)")
        refuse(("points", i, "type"), *both, getattr(point, "type", None))


def _event(event: ChangeEventFile | None, point: str) -> ChangeEvent | None:
    if event is None:
        return None
    return ChangeEvent(event.code or point, event.text, event.text_zh, event.severity, event.begin)
