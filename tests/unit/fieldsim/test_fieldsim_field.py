"""Field files, past reports, the demonstration and what the platform is told about it."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import yaml

from libs.common.contracts.registry import Binding, Device, EntityKind, Line, Load, Site
from libs.common.contracts.telemetry import Reading
from libs.common.errors import InvalidFile
from libs.common.profiles import Area, ProfileCatalogue
from libs.common.registry.file import parse_registry_yaml
from libs.common.testing.clock import FakeClock
from libs.fieldsim.demo import Wishes, choose_ports, planned_events, registry_document
from libs.fieldsim.faults import parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile, load_field_file
from libs.fieldsim.history import past_reports, read_history, write_history
from libs.fieldsim.state import StateFile, write_atomically

NOW = datetime(2026, 11, 20, 6, 1, 30, tzinfo=UTC)


def a_field(tmp_path: Path | None = None, now: datetime = NOW) -> Field:
    state = None if tmp_path is None else tmp_path / "state.json"
    return Field(load_field_file(), clock=FakeClock(now), state_path=state, refresh_s=0.0)


def read(field: Field, device_id: str, at: datetime) -> dict[str, float | None]:
    """What a live reader gets through the device's memory."""
    device = field.devices[device_id]
    return device.registers.shown(device.image(at.timestamp()))


class TestFieldFile:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "field.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def test_a_wrong_field_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            "schema: field/1\n"
            "lines: [{id: l}]\n"
            "devices:\n"
            "  - {id: d, site: s, line: l, unit: 1, profile: xy_md02}\n"
            "  - {id: e, site: s, line: l, unit: 2, profile: xy_md02, speed: 3}\n",
        )
        with pytest.raises(InvalidFile, match=r":5: devices\[1\]\.speed"):
            load_field_file(path)

    @pytest.mark.parametrize(
        ("device", "reason"),
        [
            ("{id: d, site: s, line: x, unit: 1, profile: xy_md02}", "a line of this file"),
            ("{id: d, site: s, line: l, unit: 1, profile: xy_md02, loads: [x]}", "loads of this file"),
        ],
    )
    def test_what_is_referred_to_has_to_be_there(self, tmp_path: Path, device: str, reason: str) -> None:
        path = self.write(tmp_path, f"schema: field/1\nlines: [{{id: l}}]\ndevices:\n  - {device}\n")
        with pytest.raises(InvalidFile, match=reason):
            load_field_file(path)

    def test_a_unit_is_there_once(self, tmp_path: Path) -> None:
        two = "".join(f"  - {{id: {n}, site: s, line: l, unit: 1, profile: xy_md02}}\n" for n in "ab")
        path = self.write(tmp_path, f"schema: field/1\nlines: [{{id: l}}]\ndevices:\n{two}")
        with pytest.raises(InvalidFile, match="address 1 on line l once"):
            load_field_file(path)

    def test_a_wrong_fault_in_the_story_is_told(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            "schema: field/1\nlines: [{id: l}]\n"
            "devices: [{id: d, site: s, line: l, unit: 1, profile: xy_md02}]\n"
            "story: [{device: d, fault: 'sag:phase=q'}]\n",
        )
        with pytest.raises(InvalidFile, match="phase"):
            load_field_file(path)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidFile, match="readable"):
            load_field_file(tmp_path / "none.yaml")


class TestDemonstration:
    def test_has_the_stations_of_the_story(self) -> None:
        file = load_field_file()
        categories = [device.profile.category for device in a_field().devices.values()]
        assert len({part.site for part in file.devices}) == 3
        assert 8 <= len(file.devices) <= 10
        assert categories.count("breaker") == 2
        assert "env_sensor" in categories
        assert {"chint_dtsu666", "eastron_sdm630", "lx47le_125", "xy_md02"} == {p.profile for p in file.devices}
        assert 3 <= len(file.lines) <= 4

    def test_the_registry_takes_its_file(self) -> None:
        field = a_field()
        document = registry_document(
            field.file, {name: f"127.0.0.1:{5020 + n}" for n, name in enumerate(field.servers)}
        )
        entities = parse_registry_yaml(
            yaml.safe_dump(document, allow_unicode=True, sort_keys=False),
            "registry.yaml",
            valid_from=NOW,
            changed_by="import:registry.yaml",
            profiles=ProfileCatalogue.load().names,
        )
        devices = {e.id: e for e in entities if isinstance(e, Device)}
        assert set(devices) == set(field.devices)
        feed = devices["meter-tianhe-feed"]
        assert (feed.kind, feed.profile, feed.address, feed.ct_ratio) == ("meter_3p", "chint_dtsu666", "1", 20.0)
        assert {e.endpoint for e in entities if isinstance(e, Line)} == {f"127.0.0.1:{5020 + n}" for n in range(4)}
        loads = [e for e in entities if isinstance(e, Load)]
        assert sum(load.plan_obstacle is None for load in loads) == 2
        for sector in {load.sector for load in loads}:
            assert any(load.coverage_layer for load in loads if load.sector == sector)
        assert all(e.valid_from <= NOW - timedelta(hours=48) for e in entities)
        assert all(e.lon is not None for e in entities if isinstance(e, Site))
        assert {e.kind_of for e in entities} == set(EntityKind) - {EntityKind.SIM}
        measured = {e.device for e in entities if isinstance(e, Binding)}
        assert measured == {name for name, device in field.devices.items() if device.profile.category == "meter_3p"}

    def test_registry_and_wiring_name_the_same_devices(self) -> None:
        file = load_field_file()
        fewer = file.model_copy(update={"devices": file.devices[1:]})
        with pytest.raises(InvalidFile, match="meter-tianhe-feed"):
            registry_document(fewer, dict.fromkeys((line.id for line in file.lines), "127.0.0.1:1"))

    def test_a_station_has_a_sensible_pue(self) -> None:
        field = a_field()
        day = [NOW + timedelta(hours=n) for n in range(24)]
        feed = sum(read(field, "meter-tianhe-feed", at)["active_power_total"] or 0 for at in day)
        output = sum(read(field, "meter-tianhe-it", at)["active_power_total"] or 0 for at in day)
        assert 1.2 < feed / output < 1.8

    def test_the_sag_comes_after_twenty_seconds_and_then_every_five_minutes(self) -> None:
        field = a_field()
        now_s = NOW.timestamp()
        for happening in field.file.story:
            field.faults.place(happening.device, happening.fault, now_s)
        planned = planned_events(field, until_s=now_s + 900)
        begins = [datetime.fromisoformat(str(event["begins_at"])) - NOW for event in planned]
        assert begins == [timedelta(seconds=20 + 300 * n) for n in range(3)]

        def volts(after_s: float) -> float | None:
            return read(field, "meter-tianhe-feed", NOW + timedelta(seconds=after_s))["voltage_a"]

        assert volts(25) == pytest.approx(150.0)
        assert volts(31.9) == pytest.approx(150.0)
        assert all((volts(after_s) or 0) > 200 for after_s in (0, 19.9, 32.1, 310))
        assert volts(325) == pytest.approx(150.0)

    def test_opening_the_breaker_shows_on_its_meter_and_on_the_feed(self) -> None:
        field = a_field()
        breaker = field.breakers["breaker-huangpu-aau-1"]
        before = read(field, "meter-huangpu-feed", NOW)["active_power_total"] or 0.0
        aau = read(field, "meter-huangpu-aau-1", NOW)["active_power_total"] or 0.0
        breaker.write(Area.HOLDING, 0x000D, [0x0000], NOW.timestamp())
        later = NOW + timedelta(seconds=2)
        assert aau > 0.4
        assert read(field, "meter-huangpu-aau-1", later)["active_power_total"] == 0.0
        assert read(field, "meter-huangpu-feed", later)["active_power_total"] == pytest.approx(before - aau, abs=0.02)
        breaker.write(Area.HOLDING, 0x000D, [0xFF00], (NOW + timedelta(seconds=60)).timestamp())
        inrush = read(field, "meter-huangpu-aau-1", NOW + timedelta(seconds=62))["active_power_total"] or 0.0
        settled = read(field, "meter-huangpu-aau-1", NOW + timedelta(seconds=70))["active_power_total"] or 0.0
        assert inrush > 1.5 * settled > 0.6


class TestHistory:
    def test_a_past_report_is_what_a_reader_would_have_got(self) -> None:
        field = a_field()
        for report in past_reports(field, until=NOW, hours=1, period_s=300):
            points = {n: v for n, v in read(field, report.device_id, report.source_time).items() if v is not None}
            assert report.points == points

    def test_reports_are_aligned_ordered_and_complete(self) -> None:
        reports = list(past_reports(a_field(), until=NOW, hours=48, period_s=3600, devices=["meter-tianhe-it"]))
        times = [report.source_time for report in reports]
        assert times == [datetime(2026, 11, 18, 7, tzinfo=UTC) + timedelta(hours=n) for n in range(48)]
        registers = [report.points["energy_active_import"] or 0.0 for report in reports]
        assert registers == sorted(registers)
        assert registers[0] > 1000

    def test_the_last_past_register_leads_into_the_live_one(self) -> None:
        field = a_field()
        last = list(past_reports(field, until=NOW, hours=1, period_s=60, devices=["meter-huangpu-aau-1"]))[-1]
        live = read(field, "meter-huangpu-aau-1", NOW)
        power_kw = live["active_power_total"] or 0.0
        grown = (live["energy_active_import"] or 0.0) - (last.points["energy_active_import"] or 0.0)
        seconds = (NOW - last.source_time).total_seconds()
        assert seconds == 30
        assert grown == pytest.approx(power_kw * seconds / 3600, abs=0.003)

    def test_two_runs_write_the_same_history(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.ndjson", tmp_path / "two.ndjson"
        assert write_history(one, a_field(), until=NOW, hours=2, period_s=300) == 240
        write_history(two, a_field(now=NOW + timedelta(hours=1)), until=NOW, hours=2, period_s=300)
        assert one.read_bytes() == two.read_bytes()
        first = next(iter(read_history(one)))
        assert isinstance(first, Reading)
        assert first.energy_ratio == 20.0  # the feed meter shows secondary energy
        assert list(tmp_path.iterdir()) == [one, two] or sorted(tmp_path.iterdir()) == [one, two]

    def test_history_knows_of_an_opened_breaker(self) -> None:
        field = a_field()
        opened_s = (NOW - timedelta(minutes=30)).timestamp()
        field.breakers["breaker-panyu-aau-1"].move_by_hand(False, opened_s)
        reports = list(past_reports(field, until=NOW, hours=1, period_s=300, devices=["meter-panyu-aau-1"]))
        powers = [report.points["active_power_total"] or 0.0 for report in reports]
        registers = [report.points["energy_active_import"] for report in reports]
        assert all(power > 0 for power in powers[:5])
        assert powers[-6:] == [0.0] * 6
        assert len(set(registers[-5:])) == 1

    def test_a_wrong_device_clock_dates_the_reports(self) -> None:
        field = a_field()
        field.faults.place("meter-tianhe-it", parse_order("clock:offset_s=900"), NOW.timestamp())
        report = next(past_reports(field, until=NOW, hours=1, period_s=300, devices=["meter-tianhe-it"]))
        assert report.source_time - report.received_at == timedelta(minutes=15)


class TestState:
    async def test_a_second_run_continues(self, tmp_path: Path) -> None:
        first = a_field(tmp_path)
        first.breakers["breaker-huangpu-aau-1"].write(Area.HOLDING, 0x000D, [0], NOW.timestamp())
        first.clock = FakeClock(NOW + timedelta(seconds=5))
        first.settle()
        await first.save()
        later = NOW + timedelta(hours=3)
        second = a_field(tmp_path, later)
        second.restore(StateFile(tmp_path / "state.json").load())
        for device_id in ("meter-huangpu-aau-1", "meter-huangpu-feed", "breaker-huangpu-aau-1"):
            assert read(second, device_id, later) == read(first, device_id, later)
        assert read(second, "breaker-huangpu-aau-1", later)["breaker_state"] == 0.0

    async def test_nothing_is_written_when_nothing_happened(self, tmp_path: Path) -> None:
        field = a_field(tmp_path)
        await field.save()
        assert not (tmp_path / "state.json").exists()

    @pytest.mark.parametrize("content", [b"{", b'{"version": 99}', b"[]"])
    def test_a_foreign_file_is_refused_and_kept(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "state.json"
        path.write_bytes(content)
        with pytest.raises(InvalidFile, match=r"state\.json"):
            StateFile(path).load()
        assert path.read_bytes() == content

    def test_replacing_a_file_leaves_no_pieces(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        write_atomically(path, b"1")
        write_atomically(path, b"2")
        assert path.read_bytes() == b"2"
        assert list(tmp_path.iterdir()) == [path]

    def test_devices_that_are_gone_are_forgotten(self) -> None:
        a_field().restore({"devices": {"gone": {"closed": False}}, "loads": {"gone": []}})


class TestPorts:
    def test_the_next_run_takes_the_same_ports(self, tmp_path: Path) -> None:
        path, wishes = tmp_path / "ports.json", Wishes(data_dir=tmp_path)
        first = choose_ports(path, ["line-1", "line-2"], wishes)
        assert set(first) == {"line-1", "line-2", "sc", "control"}
        assert len(set(first.values())) == 4
        assert choose_ports(path, ["line-1", "line-2"], wishes) == first
        assert orjson.loads(path.read_bytes()) == first

    def test_a_taken_port_is_replaced(self, tmp_path: Path) -> None:
        path, wishes = tmp_path / "ports.json", Wishes(data_dir=tmp_path)
        first = choose_ports(path, ["line-1"], wishes)
        with socket.create_server(("127.0.0.1", first["line-1"])):
            second = choose_ports(path, ["line-1"], wishes)
        assert second["line-1"] != first["line-1"]
        assert second["sc"] == first["sc"]

    def test_a_wished_port_is_taken(self, tmp_path: Path) -> None:
        ports = choose_ports(tmp_path / "ports.json", ["line-1"], Wishes(data_dir=tmp_path, sc_port=15999))
        assert ports["sc"] == 15999

    def test_a_broken_port_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "ports.json"
        path.write_text("{")
        with pytest.raises(InvalidFile, match="JSON"):
            choose_ports(path, [], Wishes(data_dir=tmp_path))


def test_a_field_file_needs_a_device() -> None:
    with pytest.raises(ValueError, match="devices"):
        FieldFile.model_validate({"schema": "field/1", "lines": [{"id": "l"}], "devices": []})
