"""Every shipped Modbus profile, encoded by the simulator and decoded by ten lines that know only the YAML."""

import math
import struct
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from libs.common.profiles import Area
from libs.fieldsim.device import modbus_profile
from libs.fieldsim.registers import RESOLUTION, Image, NoSuchAddress, RegisterMap

FOLDER = files("libs.common").joinpath("data", "device_profiles")
FORMATS = {
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "uint64": ">Q",
    "float32": ">f",
    "float64": ">d",
}


def document(name: str) -> dict[str, Any]:
    content = yaml.safe_load(FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    for point in content["points"]:
        if "scale" in point:
            point["scale"] = float(point["scale"])  # YAML 1.1 takes 1e-05 for a text
    return content


NAMES = sorted(
    entry.name.removesuffix(".yaml")
    for entry in FOLDER.iterdir()
    if entry.name.endswith(".yaml") and document(entry.name.removesuffix(".yaml"))["protocol"] == "modbus"
)
POINTS = [(name, point) for name in NAMES for point in document(name)["points"]]


def independent(profile: dict[str, Any], point: dict[str, Any], image: Image) -> float:
    """The value formula of the profile format's page, written again."""
    area = Area(point["area"])
    if area.is_bits:
        return float(image.flags(area, point["addr"], 1)[0])
    form = FORMATS[point["type"]]
    size = struct.calcsize(form) // 2
    words = list(struct.unpack(f">{size}H", image.registers(area, point["addr"], size)))
    if profile["word_order"] == "little":
        words.reverse()
    raw = struct.unpack(form, struct.pack(f">{size}H", *words))[0]
    if "map" in point:
        return float(point["map"][raw & point.get("mask", 0xFFFF)])
    if point.get("encoding") == "schneider_4q_pf" and abs(raw) > 1:
        raw = math.copysign(2, raw) - raw
    value: float = raw * point["scale"] + point.get("offset", 0)
    return value


def tolerance(point: dict[str, Any]) -> float:
    if not point["type"].startswith("float"):
        half: float = point["scale"] * 0.5001
        return half
    return RESOLUTION.get(point["unit"], 0.001) * 0.5001 + 3e-7 * 1000


def likely(point: dict[str, Any], number: int) -> float:
    """A different, storable value for every point."""
    if "map" in point:
        return float(list(point["map"].values())[number % len(point["map"])])
    if point["type"] == "bool":
        return float(number % 2)
    if point["unit"] == "1" and "power_factor" in point["name"]:
        return 0.5 + number / 200
    return 10.0 + number * 1.37


def test_there_are_twenty_modbus_profiles() -> None:
    assert len(NAMES) == 20


@pytest.mark.parametrize("name", NAMES)
def test_profile_reads_back(name: str) -> None:
    profile, written = document(name), modbus_profile(name)
    values = {point["name"]: likely(point, n) for n, point in enumerate(profile["points"])}
    image = RegisterMap(written, written.points).encode(values)
    shown = RegisterMap(written, written.points).shown(image)
    masked = {(p["area"], p["addr"]) for p in profile["points"] if "mask" in p}
    for point in profile["points"]:
        seen = independent(profile, point, image)
        if "mask" in point or (point["area"], point["addr"]) not in masked:
            assert seen == pytest.approx(values[point["name"]], abs=tolerance(point)), point["name"]
        assert shown[point["name"]] == pytest.approx(seen, rel=1e-12), point["name"]


@given(pick=st.sampled_from([p for p in POINTS if p[1]["type"] != "bool" and "map" not in p[1]]), data=st.data())
def test_any_number_reads_back_or_is_held_at_the_limit(pick: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    name, point = pick
    profile, written = document(name), modbus_profile(name)
    counter = point["unit"] in ("kWh", "kvarh")
    value = data.draw(st.floats(0 if counter else -1e5, 1e5))
    image = RegisterMap(written, [point["name"]]).encode({point["name"]: value})
    seen = independent(profile, point, image)
    if point["type"].startswith("float"):
        if "encoding" not in point:
            assert seen == pytest.approx(value, rel=1e-6, abs=tolerance(point))
        return
    bits = int(point["type"].lstrip("uint"))
    signed = not point["type"].startswith("u")
    low = (-(1 << bits - 1) if signed else 0) * point["scale"] + point.get("offset", 0)
    high = ((1 << bits - 1) if signed else (1 << bits)) * point["scale"] + point.get("offset", 0)
    if low + point["scale"] <= value <= high - 2 * point["scale"]:
        assert seen == pytest.approx(value, abs=tolerance(point))
    elif counter:
        assert seen == pytest.approx(value % high, abs=tolerance(point))
    else:
        assert low <= seen <= high


def test_secondary_side_registers_hold_a_scaled_secondary_value() -> None:
    """CHINT DTSU666: 230.1 V stands as 2301.0; 40 A through a ratio of 20 stands as 2000.0 (0.001 A)."""
    profile = modbus_profile("chint_dtsu666")
    registers = RegisterMap(profile, profile.points, ct_ratio=20.0, pt_ratio=1.0)
    image = registers.encode(
        {
            "voltage_a": 230.1,
            "current_a": 40.0,
            "active_power_total": 9.0,
            "energy_active_import": 100_000.0,
            "ct_ratio": 20.0,
            "pt_ratio": 1.0,
        }
    )
    assert image.registers(Area.HOLDING, 0x2006, 2) == struct.pack(">f", 2301.0)
    assert image.registers(Area.HOLDING, 0x200C, 2) == struct.pack(">f", 2000.0)
    assert image.registers(Area.HOLDING, 0x2012, 2) == struct.pack(">f", 4500.0)
    assert image.registers(Area.HOLDING, 0x101E, 2) == struct.pack(">f", 5000.0)
    assert image.registers(Area.HOLDING, 0x0006, 2) == struct.pack(">HH", 20, 10)  # raw 10 means ratio 1.0
    shown = registers.shown(image)
    assert shown["current_a"] == pytest.approx(40.0)
    assert shown["active_power_total"] == pytest.approx(9.0)
    assert shown["energy_active_import"] == 5000.0  # as the meter shows it


def test_low_word_first_profiles_swap_words_only() -> None:
    profile = modbus_profile("carlo_gavazzi_em340")
    point = profile.points["voltage_a"]
    image = RegisterMap(profile, ["voltage_a"]).encode({"voltage_a": 230.1})
    assert point.scale == 0.1
    assert image.registers(Area.INPUT, 0, 2) == struct.pack(">HH", 2301, 0)


def test_states_share_a_register() -> None:
    """LX47LE: low byte F0 closed, 0F open; high byte 01 locked."""
    profile = modbus_profile("lx47le_125")
    registers = RegisterMap(profile, profile.points)
    locked_open = registers.encode({"breaker_state": 0.0, "breaker_local_lock": 1.0})
    assert locked_open.registers(Area.INPUT, 0, 1) == b"\x01\x0f"
    assert registers.shown(locked_open)["breaker_status_raw"] == 0x010F
    closed = registers.encode({"breaker_state": 1.0, "breaker_local_lock": 0.0})
    assert closed.registers(Area.INPUT, 0, 1) == b"\x00\xf0"


@pytest.mark.parametrize(
    ("name", "point", "raw"),
    [
        ("eastron_sdm630", "voltage_a", "7fc00000"),
        ("schneider_pm5000", "voltage_a", "ffc00000"),
        ("schneider_pm5000", "energy_active_import", "8000000000000000"),
        ("abb_b23", "voltage_a", "ffffffff"),
        ("abb_b23", "active_power_total", "7fffffff"),
        ("lx47le_125", "voltage_a", "ffff"),
    ],
)
def test_marker_for_not_measured(name: str, point: str, raw: str) -> None:
    profile = modbus_profile(name)
    entry = next(p for p in document(name)["points"] if p["name"] == point)
    image = RegisterMap(profile, profile.points).encode({}, marked=[point])
    words = image.registers(Area(entry["area"]), entry["addr"], len(raw) // 4)
    assert words.hex() == raw


def test_a_counter_rolls_over_and_a_gauge_stays_at_its_limit() -> None:
    profile = modbus_profile("acrel_djsf1352_rn")  # uint32 at 0.001 kWh: 4,294,967.296 kWh is 0 again
    registers = RegisterMap(profile, profile.points)
    rolled = registers.encode({"energy_active_import": 4_294_967.296 + 5.0, "temperature_device": 9999.0})
    assert registers.shown(rolled)["energy_active_import"] == pytest.approx(5.0)
    assert registers.shown(rolled)["temperature_device"] == pytest.approx(3276.6)


def test_gaps_answer_up_to_a_length() -> None:
    profile = modbus_profile("chint_dtsu666")
    wide = RegisterMap(profile, profile.points, gap_registers=16).encode({})
    assert len(wide.registers(Area.HOLDING, 0x2000, 50)) == 100
    strict = RegisterMap(profile, profile.points, gap_registers=0).encode({})
    with pytest.raises(NoSuchAddress):
        strict.registers(Area.HOLDING, 0x2020, 12)  # 0x2022..0x2029 are no points
    with pytest.raises(NoSuchAddress):
        wide.registers(Area.HOLDING, 0x3000, 2)
    with pytest.raises(NoSuchAddress):
        wide.registers(Area.INPUT, 0x2000, 2)


def test_an_unknown_state_is_an_error_of_the_simulator() -> None:
    profile = modbus_profile("lx47le_125")
    with pytest.raises(ValueError, match="breaker_state"):
        RegisterMap(profile, profile.points).encode({"breaker_state": 0.5})
