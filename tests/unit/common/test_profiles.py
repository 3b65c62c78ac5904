"""Device profiles: the shipped ones load, and every mistake in one of your own is found with its line."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile
from libs.common.points import POINTS, Quantity
from libs.common.profiles import (
    AepControl,
    AepPoint,
    Area,
    CdtPoint,
    Cjt188Control,
    Cjt188Point,
    CloseTimer,
    Control,
    DeviceProfile,
    Dlt645Control,
    Dlt645Point,
    Encoding,
    Iec60870Control,
    Iec60870Point,
    Iec61850Control,
    Iec61850Point,
    ModbusControl,
    ModbusPoint,
    MqttControl,
    MqttPoint,
    OpcUaControl,
    OpcUaPoint,
    Order,
    ProfileCatalogue,
    Protocol,
    ReadBack,
    RegisterType,
    Serial,
    Side,
    SparkplugControl,
    SparkplugPoint,
    UnknownProfile,
    WriteFunction,
    Yd1363Control,
    Yd1363Point,
    load_profile,
    parse_profile,
    register_count,
)

CATALOGUE = ProfileCatalogue.load()
SHIPPED = {profile.name: profile for profile in CATALOGUE}

HEAD = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: meter_3p
protocol: modbus
transports: [tcp]
serial_default: {baud: 9600, data: 8, parity: "N", stop: 1}
unit_id_default: 1
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: primary
source: [manual]
"""
VOLTAGE = "{name: voltage_a, area: holding, addr: 0x10, type: float32, scale: 1, unit: V}"
SERIAL_NUMBER = '{name: x_maker_serial_number, area: holding, addr: 0x100, count: 8, type: string, scale: 1, unit: "1"}'
OF_INTERVAL = (
    "{name: energy_active_import_interval, area: holding, addr: 0x20, type: float32, scale: 1, unit: kWh, "
    "period_s: 900}"
)
STATE = '{name: breaker_state, area: coil, addr: 0, type: bool, scale: 1, unit: "1"}'


CLOSE_AFTER = "{name: x_maker_close_after, area: holding, addr: 17, type: uint16, scale: 60, unit: s}"
TIMED_OPEN = (
    "{name: breaker_open, function: write_single_coil, area: coil, addr: 9, value: 0,"
    " timer: {control: close_after, step_s: 60}}"
)
SET_TIMER = (
    "{name: close_after, function: write_single_register, area: holding, addr: 17, type: uint16,"
    " min: 0, max: 3600, read_back: {points: [x_maker_close_after]}}"
)


def profile(*points: str, head: str = HEAD, controls: tuple[str, ...] = ()) -> str:
    lines = [head.rstrip(), "points:", *(f"  - {point}" for point in points)]
    if controls:
        lines += ["controls:", *(f"  - {control}" for control in controls)]
    return "\n".join(lines) + "\n"


def parse(text: str) -> DeviceProfile:
    return parse_profile(text, name="m1", source="m1.yaml")


def problems(text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(InvalidFile) as caught:
        parse(text)
    assert [problem for problem in caught.value.problems if not problem.expected_zh] == []
    return [(problem.line, problem.field, problem.expected) for problem in caught.value.problems]


FIRST_POINT = HEAD.count("\n") + 2


class TestShipped:
    def test_all_are_there(self) -> None:
        present = {
            file.name.removesuffix(".yaml")
            for file in files("libs.common").joinpath("data/device_profiles").iterdir()
            if file.name.endswith(".yaml")
        }
        assert set(SHIPPED) == present

    @pytest.mark.parametrize("found", SHIPPED.values(), ids=SHIPPED.keys())
    def test_points_are_canonical_and_controls_can_be_proved(self, found: DeviceProfile) -> None:
        assert found.points
        for name, point in found.points.items():
            assert point.name == name
            assert name.startswith("x_") or point.unit == POINTS[name].unit
        for control in found.controls.values():
            assert control.read_back.points
            assert set(control.read_back.points) <= found.points.keys()
        assert found.sources

    def test_protocols_have_their_own_points_and_controls(self) -> None:
        kinds: Mapping[Protocol, tuple[type, type]] = {
            Protocol.MODBUS: (ModbusPoint, ModbusControl),
            Protocol.DLT645: (Dlt645Point, Dlt645Control),
            Protocol.CJT188: (Cjt188Point, Cjt188Control),
            Protocol.YD1363: (Yd1363Point, Yd1363Control),
            Protocol.AEP: (AepPoint, AepControl),
            Protocol.OPCUA: (OpcUaPoint, OpcUaControl),
            Protocol.MQTT: (MqttPoint, MqttControl),
            Protocol.SPARKPLUG: (SparkplugPoint, SparkplugControl),
            Protocol.IEC60870_5: (Iec60870Point, Iec60870Control),
            Protocol.IEC60870_5_103: (Iec60870Point, Iec60870Control),
            Protocol.IEC61850: (Iec61850Point, Iec61850Control),
            Protocol.CDT: (CdtPoint, Control),
        }
        counted = dict.fromkeys(Protocol, 0)
        for found in CATALOGUE:
            point, control = kinds[found.protocol]
            assert all(isinstance(p, point) for p in found.points.values())
            assert all(isinstance(c, control) for c in found.controls.values())
            counted[found.protocol] += 1
        assert counted == {
            Protocol.MODBUS: 20, Protocol.DLT645: 2, Protocol.CJT188: 2, Protocol.YD1363: 7, Protocol.AEP: 1,
            Protocol.OPCUA: 1, Protocol.MQTT: 2, Protocol.SPARKPLUG: 1, Protocol.IEC60870_5: 2,
            Protocol.IEC60870_5_103: 1, Protocol.IEC61850: 1, Protocol.CDT: 1,
        }  # fmt: skip

    def test_dtsu666_as_its_manual_says(self) -> None:
        found = SHIPPED["chint_dtsu666"]
        assert found.side is Side.SECONDARY
        assert found.ratio is not None
        assert (found.ratio.ct_register, found.ratio.pt_register) == (0x0006, 0x0007)
        assert found.ratio_applies_to == {Quantity.VOLTAGE, Quantity.CURRENT, Quantity.POWER, Quantity.ENERGY}
        assert found.serial == Serial(baud=9600, data_bits=8, parity="N", stop_bits=1)
        voltage = found.points["voltage_a"]
        assert isinstance(voltage, ModbusPoint)
        assert (voltage.area, voltage.address, voltage.type, voltage.scale, voltage.end) == (
            Area.HOLDING,
            0x2006,
            RegisterType.FLOAT32,
            0.1,
            0x2008,
        )

    def test_single_phase_meter_reports_its_power_under_both_names(self) -> None:
        found = SHIPPED["chint_ddsu666"]
        assert found.is_single_phase
        total, phase = found.points["active_power_total"], found.points["active_power_a"]
        assert isinstance(total, ModbusPoint)
        assert isinstance(phase, ModbusPoint)
        assert (phase.address, phase.scale, phase.unit) == (total.address, total.scale, "kW")
        assert phase.copy_of == "active_power_total"
        assert total.copy_of is None
        assert SHIPPED["eastron_sdm120"].points.keys() >= {"active_power_a", "active_power_total"}

    def test_three_phase_meter_gets_no_copies(self) -> None:
        assert not SHIPPED["chint_dtsu666"].is_single_phase
        copies = {name for found in CATALOGUE for name, point in found.points.items() if point.copy_of}
        assert all(name.endswith(("_a", "_total")) for name in copies)
        assert {found.name for found in CATALOGUE if any(p.copy_of for p in found.points.values())} == {
            "aep_breaker_example",
            "chint_ddsu666",
            "eastron_sdm120",
            "shelly_gen2_plug",
        }

    def test_breaker_with_status_word(self) -> None:
        found = SHIPPED["lx47le_125"]
        state = found.points["breaker_state"]
        assert isinstance(state, ModbusPoint)
        assert state.mask == 0xFF
        assert state.value_map == {240: 1.0, 15: 0.0}
        assert found.points["breaker_local_lock"].value_map == {256: 1.0, 0: 0.0}
        assert found.max_registers_per_read == 1
        close, open_ = found.controls["breaker_close"], found.controls["breaker_open"]
        assert isinstance(close, ModbusControl)
        assert (close.function, close.area, close.address, close.value) == (
            WriteFunction.REGISTER,
            Area.HOLDING,
            0x000D,
            0xFF00,
        )
        assert close.read_back == ReadBack(points=("breaker_state",), value=1.0)
        assert open_.read_back == ReadBack(points=("breaker_state",), value=0.0)
        assert (open_.settle_s, open_.verify_within_s) == (2.0, 15.0)

    def test_open_valve_reads_back_as_one_and_open_breaker_as_zero(self) -> None:
        assert SHIPPED["cjt188_water_meter"].controls["valve_open"].read_back == ReadBack(("valve_state",), 1.0)
        assert SHIPPED["dlt645_2007_breaker"].controls["breaker_open"].read_back == ReadBack(("breaker_state",), 0.0)

    def test_switching_all_relays_is_proved_by_all_of_them(self) -> None:
        control = SHIPPED["waveshare_modbus_rtu_relay8"].controls["relay_all_open"]
        assert control.read_back == ReadBack(tuple(f"relay_{n}_state" for n in range(1, 9)), 0.0)

    def test_set_point_is_proved_by_what_was_written(self) -> None:
        control = SHIPPED["gree_umatch_ac"].controls["ac_set_temperature"]
        assert isinstance(control, ModbusControl)
        assert control.value is None
        assert (control.min, control.max) == (16.0, 30.0)
        assert control.read_back == ReadBack(("temperature_setpoint",), None)

    def test_dlt645_breaker(self) -> None:
        found = SHIPPED["dlt645_2007_breaker"]
        state = found.points["breaker_state"]
        assert isinstance(state, Dlt645Point)
        assert (state.di, state.byte_count, state.bit, state.invert) == (0x04000503, 2, 4, True)
        trip = found.controls["breaker_open"]
        assert isinstance(trip, Dlt645Control)
        assert (trip.control_code, trip.n1, trip.password_level) == (0x1C, 0x1A, 0x02)

    def test_supply_protection_is_no_control_because_nothing_proves_it(self) -> None:
        assert "breaker_protect_supply" not in SHIPPED["dlt645_2007_breaker"].controls

    def test_cjt188_valve_and_reading(self) -> None:
        found = SHIPPED["cjt188_water_meter"]
        assert (found.meter_type, found.read_di) == (0x10, 0x901F)
        volume = found.points["water_volume"]
        assert isinstance(volume, Cjt188Point)
        assert (volume.data_offset, volume.byte_count, volume.unit_byte_offset) == (3, 4, 7)
        valve = found.controls["valve_close"]
        assert isinstance(valve, Cjt188Control)
        assert (valve.control_code, valve.di, valve.data) == (0x04, 0xA017, b"\x99")

    def test_vendor_power_factor_and_markers_of_no_value(self) -> None:
        found = SHIPPED["schneider_pm5000"]
        factor, energy = found.points["power_factor_total"], found.points["energy_active_import"]
        assert isinstance(factor, ModbusPoint)
        assert isinstance(energy, ModbusPoint)
        assert factor.encoding is Encoding.SCHNEIDER_4Q_PF
        assert factor.invalid_raw == {0xFFC00000}
        assert energy.invalid_raw == {0x8000000000000000}

    def test_markers_by_sign_are_filled_up_to_the_width(self) -> None:
        found = next(p for p in CATALOGUE if any(m for m in _invalid(p).values()) and p.name == "abb_b23")
        markers = _invalid(found)
        assert markers["voltage_a"] == {0xFFFFFFFF}
        assert markers["active_power_total"] == {0x7FFFFFFF}
        assert markers["energy_active_import"] == {0xFFFFFFFFFFFFFFFF}

    @pytest.mark.parametrize(
        ("name", "point", "modulus"),
        [
            ("dlt645_2007_meter", "energy_active_import", 1_000_000.0),
            ("dlt645_2007_meter", "energy_active_net", None),
            ("abb_b23", "energy_active_import", 2.0**64 * 0.01),
            ("schneider_pm5000", "energy_active_import", 2.0**63 * 0.001),
            ("acrel_djsf1352_rn", "energy_active_import", 2.0**32 * 0.001),
            ("chint_ddsu666", "energy_active_import", None),
            ("cjt188_water_meter", "water_volume", None),
            ("chint_ddsu666", "voltage_a", None),
        ],
    )
    def test_counters_know_where_they_roll_over(self, name: str, point: str, modulus: float | None) -> None:
        assert SHIPPED[name].points[point].modulus == modulus

    def test_ratios_are_applied_only_where_the_meter_has_not(self) -> None:
        assert SHIPPED["acrel_adl400"].ratio_applies_to == frozenset()
        assert SHIPPED["siemens_pac2200"].ratio_applies_to == frozenset()
        assert SHIPPED["lx47le_125"].ratio_applies_to == frozenset()
        assert SHIPPED["acrel_adw300"].ratio_applies_to == frozenset()
        assert len(SHIPPED["dlt645_2007_meter"].ratio_applies_to) == 4

    def test_low_word_first_is_known(self) -> None:
        assert SHIPPED["carlo_gavazzi_em340"].word_order is Order.LITTLE
        assert SHIPPED["chint_dtsu666"].word_order is Order.BIG

    def test_text_points_are_told_from_numbers(self) -> None:
        points = SHIPPED["dlt645_2007_meter"].points
        assert {name for name, point in points.items() if point.is_text} == {
            "meter_address",
            "meter_date",
            "meter_time",
        }

    def test_small_scales_without_a_decimal_point_are_numbers(self) -> None:
        assert SHIPPED["abb_b23"].points["active_power_total"].scale == 1e-05


def _invalid(found: DeviceProfile) -> dict[str, frozenset[int]]:
    return {point.name: point.invalid_raw for point in found.modbus_points()}


@pytest.mark.parametrize(
    ("type_", "count"),
    [("bool", 1), ("int16", 1), ("uint16", 1), ("int32", 2), ("float32", 2), ("uint64", 4), ("float64", 4)],
)
def test_register_count(type_: str, count: int) -> None:
    assert register_count(RegisterType(type_)) == count


class TestMistakes:
    @pytest.mark.parametrize(
        ("point", "field", "expected"),
        [
            (VOLTAGE.replace("unit: V", "unit: mV"), "points[0].unit", "V, the unit of voltage_a"),
            (VOLTAGE.replace("voltage_a", "voltage_d"), "points[0].name", "a canonical point name, or x_"),
            (VOLTAGE.replace("voltage_a", "x_maker_u").replace(": V}", ": Volt}"), "points[0].unit", "a known unit"),
            (VOLTAGE.replace("unit", "units"), "points[0].units", "unit, there is no such field"),
            (VOLTAGE.replace("0x10", "0xFFFF"), "points[0].addr", "at most 65534: a float32 ends beyond 65535"),
            (VOLTAGE.replace("0x10", "65536"), "points[0].addr", "less than or equal to 65535"),
            (VOLTAGE.replace("0x10", "-1"), "points[0].addr", "greater than or equal to 0"),
            (VOLTAGE.replace("0x10", '"0x10"'), "points[0].addr", "a whole number"),
            (VOLTAGE.replace("float32", "float16"), "points[0].type", "'bool', 'int16'"),
            (VOLTAGE.replace("holding", "coil"), "points[0].type", "bool in coil and discrete"),
            (VOLTAGE.replace("float32", "bool"), "points[0].type", "a number in holding and input"),
            (VOLTAGE.replace("scale: 1", "scale: 0"), "points[0].scale", "a number other than 0"),
            (VOLTAGE.replace("scale: 1", "scale: fast"), "points[0].scale", "a number"),
            (VOLTAGE.replace("scale: 1", "scale: 1e999"), "points[0].scale", "a finite number"),
            (VOLTAGE.replace("}", ", mask: 255}"), "points[0].type", "an integer where mask or map is used"),
            (VOLTAGE.replace("}", ", optional: yes}"), "points[0].optional", "true or false"),
            (VOLTAGE.replace("}", ", modulus: 10}"), "points[0].modulus", "only on a counter"),
            (VOLTAGE.replace("}", ", period_s: 900}"), "points[0].period_s", "only on energy_active_import_interval"),
            (VOLTAGE.replace("}", ", stamped: start}"), "points[0].stamped", "only on energy_active_import_interval"),
            (OF_INTERVAL.replace(", period_s: 900", ""), "points[0].period_s", "how long each interval is"),
            (OF_INTERVAL.replace("period_s: 900", "period_s: 9"), "points[0].period_s", "60"),
            (OF_INTERVAL.replace("}", ", stamped: middle}"), "points[0].stamped", "'end'"),
            (
                VOLTAGE.replace("float32", "uint16").replace("}", ", encoding: schneider_4q_pf}"),
                "points[0].encoding",
                "a float for schneider_4q_pf",
            ),
            (
                VOLTAGE.replace("float32", "uint16").replace("}", ", mask: 0xF0, map: {0x0F: 1}}"),
                "points[0].map.0x0F",
                "a value that the mask 0xf0 lets through",
            ),
            (
                VOLTAGE.replace("float32", "uint16").replace("}", ", map: {high: 1}}"),
                "points[0].map.high",
                "an integer as the raw value",
            ),
            ("{name: voltage_a}", "points[0].area", "a value, the field is required"),
            ("voltage_a", "points[0]", "fields and their values"),
        ],
    )
    def test_wrong_point_is_named(self, point: str, field: str, expected: str) -> None:
        found = problems(profile(point))
        assert any(line == FIRST_POINT and field == f and expected in e for line, f, e in found), found

    def test_registers_that_lie_apart_are_one_value(self) -> None:
        point = VOLTAGE.replace("addr: 0x10", "addrs: [0x30, 0x10]").replace("float32", "uint32")
        (found,) = parse(profile(point)).modbus_points()
        assert (found.parts, found.address, found.count, found.end) == ((0x30, 0x10), 0x10, 0x21, 0x31)

    def test_string_is_a_text_read_now_and_then(self) -> None:
        model = parse(profile(VOLTAGE, SERIAL_NUMBER))
        (found,) = model.modbus_texts()
        assert (found.name, found.address, found.count, found.is_text, found.slow) == (
            "x_maker_serial_number", 0x100, 8, True, True,
        )  # fmt: skip
        assert [point.name for point in model.modbus_points()] == ["voltage_a"]

    @pytest.mark.parametrize(
        ("point", "field", "expected"),
        [
            (VOLTAGE.replace("addr: 0x10, ", ""), "points[0].addr", "either addr or, for registers that lie apart"),
            (VOLTAGE.replace("addr: 0x10", "addr: 0x10, addrs: [1, 2]"), "points[0].addr", "either addr or"),
            (VOLTAGE.replace("addr: 0x10", "addrs: [1, 2, 3]"), "points[0].addrs", "2 different addresses"),
            (VOLTAGE.replace("addr: 0x10", "addrs: [1, 1]"), "points[0].addrs", "2 different addresses"),
            (VOLTAGE.replace("addr: 0x10", "addrs: [1, 99]"), "points[0].addrs", "within 60 registers"),
            (VOLTAGE.replace("addr: 0x10", "addr: 0x10, count: 2"), "points[0].count", "only with type: string"),
            (SERIAL_NUMBER.replace(", count: 8", ""), "points[0].count", "addr and count"),
            (SERIAL_NUMBER.replace("count: 8", "count: 61"), "points[0].type", "at most 60 registers"),
            (SERIAL_NUMBER.replace("x_maker_serial_number", "voltage_a"), "points[0].name", "the name of a text"),
            (SERIAL_NUMBER.replace("}", ", mask: 1}"), "points[0].type", "an integer where mask"),
            (SERIAL_NUMBER.replace("holding", "coil"), "points[0].type", "bool in coil"),
        ],
    )
    def test_wrong_place_of_a_modbus_value_is_named(self, point: str, field: str, expected: str) -> None:
        found = problems(profile(point))
        assert any(f == field and expected in e for _, f, e in found), found

    def test_controls_that_write_several_registers(self) -> None:
        state = '{name: ac_mode, area: holding, addr: 2, type: uint16, scale: 1, unit: "1"}'
        several = "{name: ac_set_mode, function: write_multiple_registers, area: holding, addr: 0"
        model = parse(profile(state, controls=(several + ", type: float32, min: 0, max: 9}",)))
        control = model.controls["ac_set_mode"]
        assert isinstance(control, ModbusControl)
        assert (control.type, control.value, control.values) == (RegisterType.FLOAT32, None, ())
        fixed = several + ", values: [1, 0x1234], read_back: {points: [ac_mode], value: 1}}"
        control = parse(profile(state, controls=(fixed,))).controls["ac_set_mode"]
        assert isinstance(control, ModbusControl)
        assert (control.type, control.value, control.values) == (None, None, (1, 0x1234))

    @pytest.mark.parametrize(
        ("rest", "field", "expected"),
        [
            ("write_single_register, area: holding, addr: 0, values: [1, 2]", "values", "only with write_multiple"),
            ("write_multiple_registers, area: holding, addr: 0, value: 1, values: [1]", "values", "values alone"),
            ("write_multiple_coils, area: coil, addr: 0, values: [1, 2]", "values", "0 and 1 for coils"),
            ("write_multiple_coils, area: holding, addr: 0, values: [1]", "function", "a write that fits the area"),
            ("write_multiple_registers, area: holding, addr: 65535, values: [1, 2]", "values", "an end at 65535"),
            (
                "write_single_register, area: holding, addr: 0, type: float32, min: 0, max: 1",
                "function",
                "for a float32",
            ),
            ("write_single_register, area: holding, addr: 0, type: int16, value: 1", "type", "a number's type"),
            (
                "write_multiple_registers, area: holding, addr: 0, type: string, min: 0, max: 1",
                "type",
                "a number's type",
            ),
            ("write_single_register, area: holding, addr: 0", "value", "min and max"),
        ],
    )
    def test_wrong_write_is_named(self, rest: str, field: str, expected: str) -> None:
        state = '{name: breaker_state, area: holding, addr: 2, type: uint16, scale: 1, unit: "1"}'
        found = problems(profile(state, controls=(f"{{name: breaker_open, function: {rest}}}",)))
        assert any(f == f"controls[0].{field}" and expected in e for _, f, e in found), found

    def test_one_name_is_used_once(self) -> None:
        found = problems(profile(VOLTAGE, VOLTAGE.replace("0x10", "0x20")))
        assert found == [
            (FIRST_POINT + 1, "points[1].name", f"each point once; it stands on line {FIRST_POINT} too"),
        ]

    def test_value_does_not_cut_into_another(self) -> None:
        found = problems(profile(VOLTAGE, VOLTAGE.replace("voltage_a", "voltage_b").replace("0x10", "0x11")))
        assert found == [(FIRST_POINT + 1, "points[1].addr", "an address that does not cut into the value at 0x0010")]

    def test_same_register_may_hold_several_points(self) -> None:
        word = '{name: breaker_status_raw, area: input, addr: 0, type: uint16, scale: 1, unit: "1"}'
        state = (
            '{name: breaker_state, area: input, addr: 0, type: uint16, scale: 1, unit: "1", mask: 1, map: {0: 0, 1: 1}}'
        )
        assert len(parse(profile(word, state)).points) == 2
        other_area = word.replace("breaker_status_raw", "meter_status").replace("input", "holding")
        assert len(parse(profile(word, state, other_area)).points) == 3

    def test_value_longer_than_the_longest_read_is_refused(self) -> None:
        head = HEAD.replace("max_registers_per_read: 60", "max_registers_per_read: 1")
        ((line, field, expected),) = problems(profile(VOLTAGE, head=head))
        assert (line, field) == (FIRST_POINT, "points[0].type")
        assert expected == "a type of at most 1 registers, the longest read (max_registers_per_read)"

    @pytest.mark.parametrize(
        ("change", "line", "field", "expected"),
        [
            (("schema: device-profile/1", "schema: device-profile/2"), 1, "schema", "'device-profile/1'"),
            (("protocol: modbus", "protocol: modbuss"), 6, "protocol", "one of modbus, dlt645-2007, cjt188"),
            (("protocol: modbus", "protocol: [modbus]"), 6, "protocol", "one of modbus"),
            (("transports: [tcp]", "transports: []"), 7, "transports", "at least 1 item"),
            (("transports: [tcp]", "transports: [udp]"), 7, "transports[0]", "'tcp', 'rtu'"),
            (("address_base: 0", "address_base: 1"), 10, "address_base", "0"),
            (("confidence: high", "confidence: sure"), 14, "confidence", "'high', 'medium' or 'low'"),
            (("side: primary", "side: upside"), 15, "side", "'primary', 'secondary', 'direct' or 'unverified'"),
            (("side: primary", "sides: primary"), 15, "sides", "side, there is no such field"),
            (("baud: 9600", "baud: fast"), 8, "serial_default.baud", "a whole number"),
            (("unit_id_default: 1", "unit_id_default: 248"), 9, "unit_id_default", "less than or equal to 247"),
            (("source: [manual]", "source: []"), 16, "source", "at least 1 item"),
            (("side: primary", "invalid_values: {word: 0xFFFF}"), 15, "invalid_values.word", "one of signed, unsigned"),
            (("side: primary", 'invalid_values: {int16: "0x80"}'), 15, "invalid_values.int16", "of the type's width"),
            (("side: primary", 'invalid_values: {signed: "0x7FFF"}'), 15, "invalid_values.signed", "0x7FFF..."),
            (("side: primary", 'ratio: {ct_register: "0x6"}'), 15, "ratio.applied_by_meter", "the field is required"),
        ],
    )
    def test_wrong_head_is_named(self, change: tuple[str, str], line: int, field: str, expected: str) -> None:
        assert change[0] in HEAD
        found = problems(profile(VOLTAGE, head=HEAD.replace(*change)))
        assert any((line, field) == (li, f) and expected in e for li, f, e in found), found

    def test_profile_without_points_is_none(self) -> None:
        assert [field for _, field, _ in problems(HEAD)] == ["points"]
        assert [field for _, field, _ in problems(HEAD + "points: []\n")] == ["points"]
        assert problems("just text")[0][2] == "a profile: fields and their values"

    @pytest.mark.parametrize(
        ("control", "field", "expected"),
        [
            (
                "{name: breaker_open, function: write_single_coil, area: coil, addr: 9, value: 0x5500}",
                "value",
                "0xFF00 or 0x0000 for a coil",
            ),
            (
                "{name: breaker_open, function: write_single_register, area: coil, addr: 9, value: 0}",
                "function",
                "a write that fits the area coil",
            ),
            (
                "{name: relay_1_open, function: write_single_coil, area: coil, addr: 9, value: 0}",
                "name",
                "a control with a read-back point in the same profile",
            ),
            (
                "{name: fan_faster, function: write_single_register, area: holding, addr: 9, value: 1}",
                "name",
                "a control with a read-back point",
            ),
            (
                "{name: breaker_open, function: write_single_register, area: holding, addr: 9, value: 1,"
                " read_back: {points: [relay_1_state], value: 0}}",
                "read_back.points",
                "points of this profile",
            ),
            (
                "{name: breaker_open, function: write_single_register, area: holding, addr: 9, value: 1,"
                " read_back: {points: [breaker_state]}}",
                "read_back",
                "a value, since the control writes a fixed one",
            ),
            (
                "{name: breaker_limit, function: write_single_register, area: holding, addr: 9, value: null,"
                " read_back: {points: [breaker_state]}}",
                "value",
                "min and max for a value from outside",
            ),
            ("{name: breaker_open, area: coil, addr: 9, value: 0}", "function", "the field is required"),
            (
                "{name: breaker_open, function: write_single_register, area: input, addr: 9, value: 0}",
                "area",
                "'holding' or 'coil'",
            ),
        ],
    )
    def test_control_that_cannot_be_trusted_is_refused(self, control: str, field: str, expected: str) -> None:
        found = problems(profile(STATE, controls=(control,)))
        wanted = f"controls[0].{field}"
        assert any(line == FIRST_POINT + 2 and f == wanted and expected in e for line, f, e in found), found

    def test_a_timer_that_closes_belongs_to_the_off(self) -> None:
        found = parse(profile(STATE, CLOSE_AFTER, controls=(TIMED_OPEN, SET_TIMER)))
        assert found.controls["breaker_open"].timer == CloseTimer("close_after", step_s=60, clear=0)
        assert found.controls["close_after"].timer is None

    @pytest.mark.parametrize(
        ("right", "wrong", "field", "expected"),
        [
            ("control: close_after", "control: other", "timer.control", "takes a value"),
            ("name: breaker_open", "name: breaker_close", "timer.control", "takes a load off"),
            ("min: 0, max: 3600,", "value: 3,", "timer.control", "takes a value"),
            ("min: 0,", "min: 60,", "timer.clear", "within 60.0 to 3600"),
            ("unit: s}", "unit: min}", "timer.control", "a read-back point in s"),
        ],
        ids=["no such control", "of an ON", "a fixed value", "cannot be stopped", "in minutes"],
    )
    def test_a_timer_that_nobody_could_prove_is_refused(
        self, right: str, wrong: str, field: str, expected: str
    ) -> None:
        text = profile(STATE, CLOSE_AFTER, controls=(TIMED_OPEN, SET_TIMER))
        assert text.count(right) == 1
        found = problems(text.replace(right, wrong))
        assert any(f == f"controls[0].{field}" and expected in e for _, f, e in found), found

    def test_control_is_listed_once(self) -> None:
        control = "{name: breaker_open, function: write_single_coil, area: coil, addr: 9, value: 0}"
        assert problems(profile(STATE, controls=(control, control)))[0][1:] == ("controls[1].name", "each control once")

    def test_all_mistakes_are_listed_at_once_in_the_order_of_the_file(self) -> None:
        text = profile(
            VOLTAGE.replace("unit: V", "unit: kV"),
            VOLTAGE.replace("voltage_a", "amperage").replace("0x10", "0x20"),
            STATE,
            controls=("{name: relay_9_open, function: write_single_coil, area: coil, addr: 9, value: 1}",),
        )
        assert [(line, field) for line, field, _ in problems(text)] == [
            (FIRST_POINT, "points[0].unit"),
            (FIRST_POINT + 1, "points[1].name"),
            (FIRST_POINT + 4, "controls[0].value"),
            (FIRST_POINT + 4, "controls[0].name"),
        ]

    def test_a_wrong_field_hides_no_other_mistake(self) -> None:
        opening = "{name: breaker_open, function: write_single_coil, area: coil, addr: 1, value: 0}"
        text = profile(
            VOLTAGE.replace("voltage_a", "voltage_b").replace("0x10", "70000"),
            VOLTAGE.replace("unit: V", "unit: mV"),
            VOLTAGE,
            STATE.replace("scale: 1", "scale: fast"),
            controls=(opening, opening.replace("breaker_open", "relay_1_open")),
        )
        found = [(line, field) for line, field, _ in problems(text)]
        first_control = FIRST_POINT + 5
        assert found == [
            (FIRST_POINT, "points[0].addr"),
            (FIRST_POINT + 1, "points[1].unit"),
            (FIRST_POINT + 2, "points[2].name"),
            (FIRST_POINT + 3, "points[3].scale"),
            (first_control + 1, "controls[1].name"),
        ]

    def test_message_says_file_line_field_and_what_was_expected(self) -> None:
        with pytest.raises(InvalidFile) as caught:
            parse(profile(VOLTAGE.replace("unit: V", "unit: mV")))
        line = f"m1.yaml:{FIRST_POINT}: points[0].unit: expected V, the unit of voltage_a, found 'mV'"
        assert line in str(caught.value)
        assert caught.value.facts["problems"][0]["found"] == "mV"


DLT645 = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: meter_3p
protocol: dlt645-2007
transports: [rs485]
address: number
confidence: high
source: [standard]
"""
CJT188 = DLT645.replace("dlt645-2007", "cjt188").replace(
    "address: number", 'address: number\nmeter_type: "0x10"\nread_di: "0x901F"'
)

BCD = "{name: voltage_a, di: 0x02010100, bytes: 2, format: XXX.X, scale: 0.1, unit: V}"
FIELD = "{name: water_volume, offset: 3, bytes: 4, format: XXXXXX.XX, scale: 0.01, unit: m3, unit_byte_offset: 7}"


class TestOtherProtocols:
    def test_right_points_are_taken(self) -> None:
        assert parse(profile(BCD, head=DLT645)).address_hint == "number"
        assert parse(profile(FIELD, head=CJT188)).points["water_volume"].unit == "m3"

    @pytest.mark.parametrize(
        ("point", "field", "expected"),
        [
            (
                "{name: voltage_a, di: 0x02010100, bytes: 2, format: XX.X, scale: 0.1, unit: V}",
                "format",
                "4 digits in 2",
            ),
            ("{name: voltage_a, di: 0x02010100, bytes: 2, format: XXX.X, scale: 1, unit: V}", "scale", "0.1, the last"),
            ("{name: voltage_a, di: 0x1FFFFFFFF, bytes: 2, format: XXX.X, scale: 0.1, unit: V}", "di", "less than"),
            (
                '{name: breaker_state, di: 1, bytes: 2, format: bitmap, scale: 1, unit: "1", bit: 16}',
                "bit",
                "below 16, the width of the value",
            ),
            (
                '{name: breaker_state, di: 1, bytes: 2, format: XXXX, scale: 1, unit: "1", bit: 1}',
                "bit",
                "only with format: bitmap",
            ),
            (
                '{name: breaker_state, di: 1, bytes: 2, format: bitmap, scale: 1, unit: "1", invert: true}',
                "invert",
                "only with a bit",
            ),
            (VOLTAGE, "addr", "one of the fields"),
        ],
    )
    def test_wrong_dlt645_point_is_named(self, point: str, field: str, expected: str) -> None:
        found = problems(profile(point, head=DLT645))
        assert any(f == f"points[0].{field}" and expected in e for _, f, e in found), found

    @pytest.mark.parametrize(
        ("point", "field", "expected"),
        [
            (
                "{name: water_volume, offset: 3, bytes: 4, format: XXXXXX.XX, scale: 0.01, unit: m3,"
                " unit_byte_offset: 8}",
                "unit_byte_offset",
                "7, the byte after the value",
            ),
            (
                "{name: water_volume, offset: 2, bytes: 4, format: XXXXXX.XX, scale: 0.01, unit: m3}",
                "offset",
                "equal to 3",
            ),
            ("{name: water_volume, offset: 3, bytes: 4, format: XXX.XX, scale: 0.01, unit: m3}", "format", "8 digits"),
        ],
    )
    def test_wrong_cjt188_point_is_named(self, point: str, field: str, expected: str) -> None:
        found = problems(profile(point, head=CJT188))
        assert any(f == f"points[0].{field}" and expected in e for _, f, e in found), found


class TestSinglePhase:
    @pytest.mark.parametrize(("given", "filled"), [("a", "total"), ("total", "a")])
    def test_missing_name_is_filled_from_the_other(self, given: str, filled: str) -> None:
        power = f"{{name: active_power_{given}, area: holding, addr: 0x20, type: float32, scale: 1, unit: kW}}"
        found = parse(profile(VOLTAGE, power)).points
        assert found[f"active_power_{filled}"].copy_of == f"active_power_{given}"
        assert "reactive_power_a" not in found

    def test_other_phases_or_line_voltages_forbid_it(self) -> None:
        power = "{name: active_power_total, area: holding, addr: 0x20, type: float32, scale: 1, unit: kW}"
        second = VOLTAGE.replace("voltage_a", "voltage_ab").replace("0x10", "0x12")
        assert "active_power_a" not in parse(profile(VOLTAGE, second, power)).points
        assert "active_power_a" not in parse(profile(power)).points

    def test_category_decides_too(self) -> None:
        power = "{name: active_power_total, area: holding, addr: 0x20, type: float32, scale: 1, unit: kW}"
        found = parse(profile(power, head=HEAD.replace("meter_3p", "meter_1p")))
        assert found.points["active_power_a"].copy_of == "active_power_total"


class TestCatalogue:
    def test_own_folder_wins_and_the_shipped_version_stays_reachable(self, tmp_path: Path) -> None:
        own = profile(VOLTAGE)
        (tmp_path / "chint_ddsu666.yaml").write_text(own, encoding="utf-8")
        (tmp_path / "my_meter.yaml").write_text(own + "version: '2.10'\n", encoding="utf-8")
        (tmp_path / "README.md").write_text("not a profile")
        catalogue = ProfileCatalogue.load([tmp_path])
        assert len(catalogue) == len(CATALOGUE) + 1
        assert catalogue.get("my_meter").version == "2.10"
        assert catalogue.get("my_meter", "2.10").model == "M1"
        assert catalogue.get("chint_ddsu666").model == "M1"
        shipped = SHIPPED["chint_ddsu666"]
        assert catalogue.get("chint_ddsu666", shipped.version) == shipped
        assert catalogue.names["chint_ddsu666"] != shipped.version
        assert "my_meter" in catalogue
        assert "my_meter" not in CATALOGUE

    def test_version_follows_the_content(self) -> None:
        first, second = parse(profile(VOLTAGE)), parse(profile(VOLTAGE.replace("0x10", "0x12")))
        assert first.version == parse(profile(VOLTAGE)).version
        assert first.version != second.version
        assert len(first.version) == 12

    def test_unknown_name_or_version(self) -> None:
        with pytest.raises(UnknownProfile, match="no device profile nothing"):
            CATALOGUE.get("nothing")
        with pytest.raises(UnknownProfile, match="chint_ddsu666 in version 9"):
            CATALOGUE.get("chint_ddsu666", "9")
        assert CATALOGUE.find("nothing") is None
        assert CATALOGUE.find("chint_ddsu666") is SHIPPED["chint_ddsu666"]

    def test_mistakes_in_several_files_are_told_together(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("protocol: x\n")
        (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "Bad Name.yaml").write_text(profile(VOLTAGE), encoding="utf-8")
        with pytest.raises(InvalidFile) as caught:
            ProfileCatalogue.load([tmp_path])
        text = str(caught.value)
        assert "a.yaml:1: protocol: expected one of modbus" in text
        assert "b.yaml: file: expected UTF-8 text" in text
        assert "Bad Name.yaml: file name: expected a name of lower case" in text

    def test_folder_must_exist(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidFile, match="a folder of profiles"):
            ProfileCatalogue.load([tmp_path / "nowhere"])

    def test_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m1.yaml"
        path.write_text(profile(VOLTAGE), encoding="utf-8")
        assert load_profile(path).name == "m1"
        with pytest.raises(InvalidFile, match="a readable file"):
            load_profile(tmp_path / "nothing.yaml")


@given(
    text=st.sampled_from([profile(VOLTAGE, STATE), profile(BCD, head=DLT645), profile(FIELD, head=CJT188)]).flatmap(
        lambda whole: st.tuples(st.just(whole), st.integers(0, len(whole)), st.integers(0, 12), st.text(max_size=6))
    )
)
def test_damaged_file_is_read_or_refused_but_breaks_nothing(text: tuple[str, int, int, str]) -> None:
    whole, at, length, instead = text
    damaged = whole[:at] + instead + whole[at + length :]
    try:
        found: Any = parse(damaged)
    except InvalidFile as exc:
        found = exc.problems
    assert found


RESTART_CONTROL = (
    "{name: restart, function: write_single_register, area: holding, addr: 5, value: 1, verify_within_s: 60}"
)
CLOCK_HEAD = HEAD + "clock: {addr: 0x60, registers: [yy/mo, dd/hh, mi/ss]}\n"


class TestCare:
    def test_a_restart_has_nothing_to_read_back(self) -> None:
        found = parse(profile(VOLTAGE, controls=(RESTART_CONTROL,))).controls["restart"]
        assert (found.read_back.points, found.verify_within_s) == ((), 60)

    def test_a_restart_takes_no_value(self) -> None:
        text = profile(VOLTAGE, controls=(RESTART_CONTROL.replace("value: 1", "value: null, min: 0, max: 1"),))
        assert [field for _, field, _ in problems(text)] == ["controls[0].value"]

    def test_a_clock_in_registers(self) -> None:
        clock = parse(profile(VOLTAGE, head=CLOCK_HEAD)).clock
        assert clock is not None
        assert (clock.address, clock.registers, clock.zone) == (
            0x60, (("yy", "mo"), ("dd", "hh"), ("mi", "ss")), "Asia/Shanghai",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            (("yy/mo, dd/hh, mi/ss", "yy/mo, dd/hh, mi"), "clock.registers"),
            (("yy/mo, dd/hh, mi/ss", "yy/mo, dd/hh, mi/ss, yyyy"), "clock.registers"),
            (("addr: 0x60", "addr: 0xFFFE"), "clock.addr"),
            (("mi/ss]", "mi/ss], zone: Asia/Guangzhou"), "clock.zone"),
        ],
    )
    def test_a_clock_that_cannot_be_is_refused(self, change: tuple[str, str], field: str) -> None:
        text = profile(VOLTAGE, head=CLOCK_HEAD.replace(*change))
        assert [found for _, found, _ in problems(text)] == [field]
