"""The field file: which loads, lines and devices a simulated field has, and what is going to happen to them."""

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from libs.common.errors import InvalidFile, InvalidInput, Problem
from libs.common.yamlfile import parse_yaml, validate
from libs.fieldsim.breaker import MOTOR_DELAY_S
from libs.fieldsim.faults import AnyOrder, parse_order
from libs.fieldsim.meter import ROOM_DEGC
from libs.fieldsim.modbus import Absent, Framing
from libs.fieldsim.registers import GAP_REGISTERS

DEMO = "demo_site.yaml"
PASSWORD = "000000"  # noqa: S105 - of simulated meters, as they leave the factory
INSTALLED_AT = datetime(2025, 1, 1, tzinfo=UTC)


class Part(BaseModel):
    """Base: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MainsPart(Part):
    """The supply of a site."""

    site: str
    shift_h: float = 0.0
    """How much later than the original the site plays the measured voltage. [h]"""


class LoadPart(Part):
    """A consumer."""

    id: str
    phases: str = Field("abc", pattern="^(a|b|c|ab|ac|bc|abc)$")
    constant_kw: float = Field(0.0, ge=0)
    """All phases together. [kW]"""
    gain: float = Field(0.0, ge=0)
    """What each phase's measured power is multiplied with."""
    power_factor: float = Field(0.98, gt=0, le=1)
    shift_h: float = 0.0


class LinePart(Part):
    """A TCP port with devices behind it."""

    id: str
    port: int = Field(0, ge=0, le=65535)
    """0: a free one."""
    framing: Framing = Framing.TCP
    absent: Absent = Absent.EXCEPTION
    pace_s: float = Field(0.0, ge=0)
    pty: Path | None = None
    """Of a stream: link to a pseudo terminal that the line is on, instead of a port."""

    @model_validator(mode="after")
    def _is_a_terminal_only_as_a_stream(self) -> "LinePart":
        if self.pty is not None and self.framing is not Framing.STREAM:
            raise ValueError(f"line {self.id}: pty only with framing stream")
        return self


class DevicePart(Part):
    """A device; which of the figures it takes depends on protocol and category of its profile."""

    id: str
    site: str
    line: str
    unit: int | None = Field(None, ge=0, le=255)
    """Of Modbus; others have an address."""
    address: str = ""
    """DL/T 645: at most 12 digits; CJ/T 188: 14; YD/T 1363.3: 1 to 254."""
    profile: str
    loads: tuple[str, ...] = ()
    """What a meter measures, or the one load that a breaker feeds."""
    ct_ratio: float = Field(1.0, gt=0)
    pt_ratio: float = Field(1.0, gt=0)
    installed_at: datetime = INSTALLED_AT
    initial_kwh: float = Field(0.0, ge=0)
    poles: Literal[1, 3] = 3
    motor_delay_s: float = Field(MOTOR_DELAY_S, ge=0)
    room_degc: float = ROOM_DEGC
    values: dict[str, float] = {}
    """Of a device that is neither meter, breaker nor sensor: what stands in its points."""
    gap_registers: int = Field(GAP_REGISTERS, ge=0)
    password: str = Field(PASSWORD, pattern="^[0-9]{6}$")
    """DL/T 645: what a control has to bring."""
    blocks: bool = True
    """DL/T 645: whether it answers blocks of items."""
    clock_offset_s: float = 0.0
    """DL/T 645 and YD/T 1363: how wrong its clock is. [s]"""
    counts: dict[str, int] = {}
    """YD/T 1363.3: how often groups of its answers are repeated, by their way: ``module``, ``panel[1].input``."""

    @model_validator(mode="after")
    def _has_a_place(self) -> "DevicePart":
        if (self.unit is None) == (not self.address):
            raise ValueError(f"device {self.id}: unit or address, one of them")
        return self

    @property
    def place(self) -> str:
        """Its unit or address on the line."""
        return self.address if self.unit is None else str(self.unit)


def _read_order(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_order(value)
    except InvalidInput as exc:
        raise ValueError(exc.message) from exc


class StoryPart(Part):
    """Something that is going to happen, counted from the start of the field."""

    device: str
    fault: Annotated[AnyOrder, BeforeValidator(_read_order)]
    """As on the command line, ``sag:phase=a,to_v=150,duration_s=12``, or its fields written out."""


class FieldFile(Part):
    """The whole file."""

    schema_: Literal["field/1"] = Field(alias="schema")
    mains: tuple[MainsPart, ...] = ()
    loads: tuple[LoadPart, ...] = ()
    lines: tuple[LinePart, ...] = Field(min_length=1)
    devices: tuple[DevicePart, ...] = Field(min_length=1)
    story: tuple[StoryPart, ...] = ()
    registry: dict[str, JsonValue] = {}
    """Master data for the platform: a registry file whose lines and devices get their wiring from here."""

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> "FieldFile":
        loads, lines = {load.id for load in self.loads}, {line.id for line in self.lines}
        places: set[tuple[str, str]] = set()
        for device in self.devices:
            if device.line not in lines:
                raise ValueError(f"device {device.id}: a line of this file, found {device.line!r}")
            for load in device.loads:
                if load not in loads:
                    raise ValueError(f"device {device.id}: loads of this file, found {load!r}")
            if (device.line, device.place) in places:
                raise ValueError(f"device {device.id}: address {device.place} on line {device.line} once")
            places.add((device.line, device.place))
        devices = [device.id for device in self.devices]
        if len(set(devices)) != len(devices):
            raise ValueError("every device id once")
        for happening in self.story:
            if happening.device not in devices:
                raise ValueError(f"story: a device of this file, found {happening.device!r}")
        return self


def load_field_file(path: Path | None = None) -> FieldFile:
    """Return a field file; without a path the shipped demonstration.

    Raises:
        InvalidFile: With line, field and what was expected.
    """
    source = files("libs.fieldsim").joinpath(DEMO) if path is None else path
    name = DEMO if path is None else str(path)
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as exc:
        problem = Problem(line=None, field="file", expected="a readable file", found=exc)
        raise InvalidFile(name, [problem]) from exc
    parsed, problems = validate(FieldFile, parse_yaml(text, name))
    if parsed is None:
        raise InvalidFile(name, problems)
    return parsed
