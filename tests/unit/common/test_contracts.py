"""The payload models: what they take, what they refuse, and that they say what the contract page says."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from libs.common.bus import topics
from libs.common.bus.envelope import event_type, message
from libs.common.bus.port import Received
from libs.common.contracts.alarm import AlarmEvent, AlarmLevel, EndReason, MaintenanceScope, MaintenanceWindow
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Amount, CalendarDate, Count, Flag, Network, Payload, Phase, TimeOfDay
from libs.common.contracts.carbon import Interval, IntervalFlag, Medium
from libs.common.contracts.catalogue import CATALOGUE, TopicContract
from libs.common.contracts.control import (
    Command,
    CommandAction,
    CommandState,
    ControlEvent,
    Evidence,
    OccurrenceState,
)
from libs.common.contracts.examples import AT, COMMAND, EXAMPLES, LOAD, METER, SITE, example_of
from libs.common.contracts.registry import (
    ENTITY_TYPES,
    RECORD_TYPES,
    REFERENCES,
    Device,
    EntityKind,
    EntityState,
    Load,
    LoadKind,
    LoadRecord,
    Region,
    RegionLevel,
    Site,
    SiteKind,
    parse_record,
    record_of,
    references_of,
)
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Heartbeat, Quality, Reading
from libs.common.ids import CircuitId, DeviceId, SiteId

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAIVE = T0.replace(tzinfo=None)

BY_TOPIC = {contract.name: contract for contract in CATALOGUE}
REQUIRED: Mapping[str, set[str]] = {
    topics.READINGS: {"device_id", "site_id", "source_time", "received_at", "driver", "points"},
    topics.BACKFILL: {"device_id", "site_id", "source_time", "received_at", "driver", "points"},
    topics.REJECTED: {"reason", "source", "received_at", "raw_base64"},
    topics.DEVICE_EVENTS: {"device_id", "site_id", "source_time", "code", "phase", "text"},
    topics.DEVICE_STATUS: {"connectivity", "texts", "signal", "battery", "sim"},
    topics.REGISTRY: {"kind", "id", "state", "versions"},
    topics.COMMANDS: {
        *("command_id", "device_id", "line_id", "action", "arguments", "not_after", "issued_at", "signature"),
    },
    topics.RESULTS: {"command_id", "stage", "evidence", "epoch", "at"},
    topics.CONTROL_EVENTS: {"state", "at", "reason"},
    topics.PLANS: {"plan_id", "state", "at", "name", "load_count", "first_date", "last_date", "zone"},
    topics.CONDITIONS: {"source", "kind", "subject", "phase", "detail"},
    topics.ALARM_EVENTS: {"alarm_id", "sequence", "phase", "level", "signal", "began_at"},
    topics.ALARM_ORDERS: {"order_id", "alarm_id", "action", "actor", "at"},
    topics.MAINTENANCE: {"window_id", "scope", "from", "to"},
    topics.DIAGNOSES: {
        *("diagnosis_id", "device_id", "code", "cause", "evidence", "advice_zh", "advice_en", "phase"),
    },
    topics.INTERVALS: {"circuit_id", "start", "end", "interval_flag", "version"},
    topics.CARBON_RESULTS: {"node", "period", "measure", "unit", "completeness", "version"},
    topics.ATTESTATIONS: {"kind", "tree", "size", "root", "at", "final", "key", "signature"},
    topics.REPORTS: {*("report", "version", "kind", "name", "start", "end", "digest", "made_at", "path")},
    topics.DELIVERY_EVENTS: {"destination", "item", "state", "attempts", "at"},
    topics.AUDIT: {"actor", "door", "action", "subject", "at"},
}
"""The contract page's required fields, less those that a message can truthfully lack: those are CONDITIONAL."""

CONDITIONAL: Mapping[str, set[str]] = {
    topics.READINGS: {"seq", "quality"},
    topics.BACKFILL: {"seq", "quality"},
    topics.DEVICE_STATUS: {"last_report_at"},  # a device that was never heard of
    topics.COMMANDS: {"restore_at", "off_at_most_s"},  # an ON has none, an OFF must
    topics.CONTROL_EVENTS: {"command_id", "occurrence_id", "load_id"},  # one of; a load where there is one
    topics.ALARM_EVENTS: {"device_id", "ended_at", "end_reason", "inhibited_by"},  # the end only; a site's alarm
    topics.ALARM_ORDERS: {"until", "rule_key"},  # a shelf has an end
    topics.INTERVALS: {"energy_kwh", "medium", "quantity"},  # a missing interval has no figure
    topics.CARBON_RESULTS: {"value"},  # unknown is not zero
    topics.AUDIT: {"before", "after"},  # creation and removal
}


def field_names(payload: type[Payload], *, required: bool) -> set[str]:
    return {info.alias or name for name, info in payload.model_fields.items() if info.is_required() or not required}


@pytest.mark.parametrize("contract", CATALOGUE, ids=lambda contract: contract.area)
def test_every_topic_has_the_fields_that_the_contract_page_names(contract: TopicContract) -> None:
    for payload in contract.payloads:
        if payload is Heartbeat:
            continue
        assert REQUIRED[contract.name] <= field_names(payload, required=True)
        assert CONDITIONAL.get(contract.name, set()) <= field_names(payload, required=False)


def test_every_topic_keyed_by_site_names_its_site() -> None:
    for contract in CATALOGUE:
        if contract.key == "site_id":
            assert all("site_id" in field_names(p, required=True) for p in contract.payloads if p is not Heartbeat)


def test_catalogue_and_topic_names_agree() -> None:
    assert sorted(contract.name for contract in CATALOGUE) == sorted(topics.ALL)
    assert sorted(c.name for c in CATALOGUE if c.compacted) == sorted(topics.COMPACTED)
    assert BY_TOPIC[topics.READINGS].area == "telemetry.readings"


def test_fields_beyond_the_required_ones_default_to_absent() -> None:
    seen: set[type[Payload]] = {p for contract in CATALOGUE for p in contract.payloads} - set(RECORD_TYPES.values())
    for payload in seen:
        for name, info in payload.model_fields.items():
            assert info.is_required() or info.default is None, f"{payload.__name__}.{name}"


@pytest.mark.parametrize("payload", EXAMPLES, ids=lambda payload: payload.__name__)
def test_example_survives_the_topic(payload: type[Payload]) -> None:
    example = EXAMPLES[payload]
    value = message("wattring.test.v1", "key", example, source="test", time=AT).value
    assert value is not None
    assert value == example.to_json()
    assert b"null" not in value or isinstance(example, Reading)
    assert payload.from_json(value) == example
    assert payload.model_validate_json(value) == example


@pytest.mark.parametrize("payload", EXAMPLES, ids=lambda payload: payload.__name__)
def test_newer_writer_does_not_break_an_older_reader(payload: type[Payload]) -> None:
    newer = {**orjson.loads(EXAMPLES[payload].to_json()), "field_of_a_later_release": {"a": [1]}}
    assert payload.from_json(orjson.dumps(newer)) == EXAMPLES[payload]


def reading(**changes: Any) -> dict[str, Any]:
    return {
        "device_id": "m1",
        "site_id": "s1",
        "source_time": "2026-01-01T08:00:00+08:00",
        "received_at": "2026-01-01T00:00:01Z",
        "driver": "modbus",
        "points": {"voltage_a": 230},
        **changes,
    }


def test_times_of_any_offset_are_held_in_utc() -> None:
    taken = Reading.model_validate(reading())
    assert taken.source_time == T0
    assert taken.source_time.tzinfo is UTC
    assert b'"source_time":"2026-01-01T00:00:00Z"' in taken.to_json()


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01T08:00:00",
        "0001-01-01T00:00:00+08:00",
        1_767_225_600,
        1_767_225_600.5,
        "1767225600",
        "-1",
        "",
        None,
        "yesterday",
        True,
    ],
    ids=repr,
)
def test_time_is_never_guessed(time: object) -> None:
    with pytest.raises(ValidationError, match="source_time"):
        Reading.model_validate(reading(source_time=time))


@pytest.mark.parametrize("counted", [0, 3600, 1.5, "0", "86400", "-1", True], ids=repr)
@pytest.mark.parametrize("kind", [CalendarDate, TimeOfDay], ids=["date", "time of day"])
def test_dates_and_times_of_day_are_written_not_counted(kind: Any, counted: object) -> None:
    with pytest.raises(ValidationError, match=r"a date such as|a time of day such as"):
        TypeAdapter(kind).validate_python(counted)


@pytest.mark.parametrize("meant", [0, 1, "true", "no", None], ids=repr)
def test_a_flag_is_true_or_false(meant: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Flag).validate_python(meant)


@pytest.mark.parametrize("kind", [Amount, Count], ids=["amount", "count"])
def test_a_number_may_be_a_cell_s_text_but_no_flag(kind: Any) -> None:
    assert TypeAdapter(kind).validate_python("3") == TypeAdapter(kind).validate_python(3) == 3
    for flag in (True, False):
        with pytest.raises(ValidationError, match="a number"):
            TypeAdapter(kind).validate_python(flag)


def test_a_network_is_written_not_numbered() -> None:
    assert str(TypeAdapter(Network).validate_python("10.1.0.0/16")) == "10.1.0.0/16"
    for number in (0, 167837696, True, "167837696"):
        with pytest.raises(ValidationError, match="as text"):
            TypeAdapter(Network).validate_python(number)


def test_dates_and_times_of_day_are_taken_as_people_write_them() -> None:
    assert TypeAdapter(CalendarDate).validate_python("2026-01-31") == date(2026, 1, 31)
    assert TypeAdapter(TimeOfDay).validate_python("23:59:59") == time(23, 59, 59)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"230"', b"true"], ids=bytes.decode)
def test_what_is_no_finite_number_is_refused(number: bytes) -> None:
    value = orjson.dumps(reading()).replace(b"230", number)
    with pytest.raises(ValueError):  # noqa: PT011  # orjson's and pydantic's errors have only this in common
        Reading.from_json(value)
    with pytest.raises(ValidationError):
        Reading.model_validate_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_non_finite_numbers_cannot_be_written(value: float) -> None:
    with pytest.raises(ValidationError):
        Reading.model_validate(reading(points={"voltage_a": value}))
    with pytest.raises(ValidationError):
        Evidence(feedback_value=value)
    with pytest.raises(ValidationError):
        Command.model_validate({**json.loads(example_of(Command).to_json()), "arguments": {"value": value}})
    with pytest.raises(ValidationError):
        AuditEvent(actor="a", door="api", action="b", subject="c", at=T0, before={"deep": [{"x": value}]})


def test_payloads_cannot_be_changed() -> None:
    taken = Reading.model_validate(reading())
    with pytest.raises(ValidationError):
        taken.driver = "other"  # type: ignore[misc]  # that is the point


@given(
    points=st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
        max_size=40,
    ),
    seq=st.none() | st.integers(0, 2**31),
    time=st.datetimes(NAIVE, NAIVE.replace(year=2199), timezones=st.sampled_from([UTC, timezone(timedelta(hours=8))])),
)
def test_any_reading_survives_json(points: dict[str, float | None], seq: int | None, time: datetime) -> None:
    before = Reading.model_validate(reading(points=points, seq=seq, source_time=time, received_at=time))
    after = Reading.from_json(before.to_json())
    assert after == before
    assert {name: value for name, value in after.points.items() if value is not None} == {
        name: value for name, value in points.items() if value is not None
    }


class TestQuality:
    def test_bad_and_uncertain_are_those_of_the_contract(self) -> None:
        assert {flag.value for flag in Quality if flag.is_bad} == {"invalid", "stale", "frozen"}
        assert all(flag.is_bad != flag.is_uncertain for flag in Quality)

    def test_bad_and_missing_values_are_not_usable_and_zero_is(self) -> None:
        taken = Reading.model_validate(
            reading(
                points={"a": 0, "b": 1, "c": 2, "d": None},
                quality={"b": "stale", "c": "suspect"},
            )
        )
        assert [taken.usable(name) for name in "abcde"] == [0.0, None, 2.0, None, None]
        assert taken.quality_of("a") is None
        assert taken.quality_of("c") is Quality.SUSPECT


def test_heartbeat_is_told_from_a_reading_by_its_type() -> None:
    def received(payload: Payload) -> Received:
        sent = message(topics.READINGS, "s1", payload, source="ingest", time=T0)
        return Received(sent.topic, 0, 0, sent.key, sent.value, sent.headers, T0)

    assert event_type(received(example_of(Heartbeat))) == HEARTBEAT_TYPE
    assert event_type(received(example_of(Reading))) == topics.READINGS
    assert BY_TOPIC[topics.READINGS].ce_type(Heartbeat) == HEARTBEAT_TYPE


class TestCommand:
    def test_signature_covers_everything_else_as_it_goes_onto_the_topic(self) -> None:
        command = example_of(Command).model_copy(update={"proof": "AA=="})
        on_topic = orjson.loads(command.to_json())
        assert command.signing_payload() == Command.signed_part(on_topic)
        assert command.signing_payload().keys() | {"signature", "proof"} == on_topic.keys()

    @given(arguments=st.dictionaries(st.text(max_size=5), st.integers() | st.floats(-1e9, 1e9) | st.booleans()))
    def test_reader_sees_what_was_signed_whatever_the_arguments(self, arguments: dict[str, float]) -> None:
        command = example_of(Command).model_copy(update={"arguments": arguments})
        assert Command.signed_part(json.loads(command.to_json())) == command.signing_payload()

    def test_fields_of_a_newer_control_stay_signed(self) -> None:
        on_topic = {**orjson.loads(example_of(Command).to_json()), "later": 1}
        assert Command.signed_part(on_topic)["later"] == 1
        assert "signature" not in Command.signed_part(on_topic)

    @pytest.mark.parametrize("missing", ["restore_at", "off_at_most_s"])
    def test_off_without_its_wake_up_is_refused(self, missing: str) -> None:
        value = orjson.loads(example_of(Command).to_json())
        del value[missing]
        with pytest.raises(ValidationError, match="an OFF needs restore_at"):
            Command.model_validate(value)

    def test_isolation_may_stay_open_and_an_on_needs_no_wake_up(self) -> None:
        value = orjson.loads(example_of(Command).to_json())
        del value["restore_at"], value["off_at_most_s"]
        assert Command.model_validate({**value, "isolation_id": "permit-1"}).restore_at is None
        assert Command.model_validate({**value, "action": "close"}).action is CommandAction.CLOSE

    def test_unknown_is_not_the_end_of_a_command(self) -> None:
        final = {state for state in CommandState if state.is_final}
        assert final == {
            CommandState.SUCCEEDED,
            CommandState.REJECTED,
            CommandState.CANCELLED,
            CommandState.EXPIRED,
            CommandState.FAILED,
            CommandState.SUPERSEDED,
            CommandState.PARTIAL,
        }


class TestControlEvent:
    def test_states_of_commands_and_occurrences_cannot_be_confused(self) -> None:
        assert not {state.value for state in CommandState} & {state.value for state in OccurrenceState}
        event = ControlEvent.model_validate(
            {"site_id": SITE, "state": "awake", "at": T0, "reason": "", "occurrence_id": "o", "load_id": LOAD}
        )
        assert event.state is OccurrenceState.AWAKE
        again = ControlEvent.from_json(event.model_copy(update={"state": CommandState.ACCEPTED}).to_json())
        assert again.state is CommandState.ACCEPTED

    @pytest.mark.parametrize(
        "subjects", [{"load_id": LOAD}, {"command_id": COMMAND}, {}], ids=["load", "command", "none"]
    )
    def test_event_needs_its_subjects(self, subjects: dict[str, str]) -> None:
        with pytest.raises(ValidationError, match="is needed"):
            ControlEvent.model_validate({"site_id": SITE, "state": "awake", "at": T0, "reason": "", **subjects})


class TestAlarmEvent:
    @staticmethod
    def event(**changes: object) -> AlarmEvent:
        fields = {
            "alarm_id": "a",
            "site_id": SITE,
            "sequence": 1,
            "phase": "begin",
            "level": 2,
            "signal": "x",
            "began_at": T0,
        }
        return AlarmEvent.model_validate({**fields, **changes})

    def test_level_is_a_number_from_one_to_four(self) -> None:
        assert self.event().level is AlarmLevel.MAJOR
        assert b'"level":2' in self.event().to_json()
        for level in (0, 5, "major"):
            with pytest.raises(ValidationError, match="level"):
                self.event(level=level)

    def test_end_says_when_and_why(self) -> None:
        end = self.event(phase="end", ended_at=T0, end_reason="recovered")
        assert end.end_reason is EndReason.RECOVERED
        for fields in ({"ended_at": T0}, {"end_reason": "manual"}, {}):
            with pytest.raises(ValidationError, match="an end needs"):
                self.event(phase=Phase.END, **fields)

    def test_begin_has_no_end(self) -> None:
        with pytest.raises(ValidationError, match="belong to the end"):
            self.event(ended_at=T0, end_reason="manual")

    def test_end_does_not_come_before_the_begin(self) -> None:
        with pytest.raises(ValidationError, match="before began_at"):
            self.event(phase="end", ended_at=T0 - timedelta(seconds=1), end_reason="recovered")

    def test_alarm_is_never_just_a_moment(self) -> None:
        with pytest.raises(ValidationError, match="phase"):
            self.event(phase="once")


class TestMaintenance:
    def test_from_is_written_under_its_own_name(self) -> None:
        window = example_of(MaintenanceWindow)
        assert b'"from":' in window.to_json()
        assert b"from_" not in window.to_json()

    def test_window_needs_a_length(self) -> None:
        with pytest.raises(ValidationError, match="to must lie after from"):
            MaintenanceWindow(window_id="w", scope=MaintenanceScope(site_id=SITE), from_=T0, to=T0)

    def test_scope_covers_its_devices_or_the_whole_site(self) -> None:
        other, device = SiteId("other"), DeviceId("d")
        assert MaintenanceScope(site_id=SITE).covers(SITE, device)
        assert MaintenanceScope(site_id=SITE).covers(SITE)
        assert not MaintenanceScope(site_id=SITE).covers(other, device)
        some = MaintenanceScope(site_id=SITE, device_ids=(device,))
        assert some.covers(SITE, device)
        assert not some.covers(SITE, METER)
        assert not some.covers(SITE)


class TestInterval:
    @staticmethod
    def interval(**changes: object) -> Interval:
        fields = {
            "circuit_id": CircuitId("c"),
            "site_id": SITE,
            "start": T0,
            "end": T0 + timedelta(minutes=15),
            "interval_flag": "measured",
            "version": 1,
        }
        return Interval.model_validate({**fields, **changes})

    def test_missing_has_no_figure_and_zero_is_one(self) -> None:
        assert self.interval(energy_kwh=0.0).energy_kwh == 0.0
        assert self.interval(interval_flag="missing").energy_kwh is None
        with pytest.raises(ValidationError, match="needs value"):
            self.interval()
        for flag in (IntervalFlag.MISSING, IntervalFlag.REJECTED):
            with pytest.raises(ValidationError, match="has no value"):
                self.interval(interval_flag=flag, energy_kwh=0.0)

    def test_other_media_have_quantity_and_unit(self) -> None:
        water = self.interval(medium="water", quantity=1.5, unit="m3")
        assert water.medium is Medium.WATER
        for fields in ({"quantity": 1.0}, {"medium": "water", "quantity": 1.0}, {"medium": "gas", "energy_kwh": 1.0}):
            with pytest.raises(ValidationError):
                self.interval(**fields)

    def test_interval_needs_a_length(self) -> None:
        with pytest.raises(ValidationError, match="end must lie after start"):
            self.interval(end=T0, energy_kwh=1.0)


def site(*, start: int = 0, end: int | None = None, version: int = 1, name: str = "x", site_id: str = "s1") -> Site:
    return Site(
        id=site_id,
        name=name,
        valid_from=T0 + timedelta(days=start),
        valid_to=None if end is None else T0 + timedelta(days=end),
        version=version,
        changed_by="user:test",
        code="1",
        kind=SiteKind.EXCHANGE,
    )


class TestRegistryRecord:
    def test_history_answers_for_any_time(self) -> None:
        record = record_of([site(start=0, end=10, name="old"), site(start=10, end=20, version=2, name="new")])
        names = {
            day: found and found.name
            for day in (-1, 0, 9, 10, 19, 20)
            if (found := record.at(T0 + timedelta(day))) or 1
        }
        assert names == {-1: None, 0: "old", 9: "old", 10: "new", 19: "new", 20: None}
        assert record.latest.name == "new"
        assert record.revision == 2

    def test_versions_of_a_record_do_not_overlap(self) -> None:
        for versions in (
            [site(start=0), site(start=10, version=2)],
            [site(start=0, end=11), site(start=10, version=2)],
            [site(start=10, end=20), site(start=0, end=5, version=2)],
        ):
            with pytest.raises(ValidationError, match="overlap or are out of order"):
                record_of(versions)

    def test_record_is_of_one_entity(self) -> None:
        with pytest.raises(ValidationError, match="id of the record"):
            record_of([site(end=1), site(start=1, site_id="s2")])

    def test_removed_entity_says_since_when_and_keeps_its_past(self) -> None:
        with pytest.raises(ValidationError, match="needs valid_to"):
            record_of([site()], state=EntityState.REMOVED)
        record = record_of([site(end=10)], state=EntityState.REMOVED)
        assert not record.is_active
        assert record.at(T0) is not None
        assert record.at(T0 + timedelta(days=10)) is None

    def test_record_is_read_as_the_class_of_its_kind(self) -> None:
        for kind, cls in RECORD_TYPES.items():
            example = EXAMPLES[cls]
            read = parse_record(example.to_json())
            assert read == example
            assert type(read) is cls
            assert read.kind is kind
            assert type(read.latest) is ENTITY_TYPES[kind]

    def test_validity_is_half_open_and_has_a_length(self) -> None:
        with pytest.raises(ValidationError, match="valid_to after valid_from"):
            site(start=1, end=1)


class TestEntities:
    def test_every_reference_names_a_field_of_its_kind(self) -> None:
        assert REFERENCES.keys() == ENTITY_TYPES.keys() == RECORD_TYPES.keys() == set(EntityKind)
        for kind, references in REFERENCES.items():
            for path in references:
                assert path.split(".")[0] in ENTITY_TYPES[kind].model_fields

    def test_references_of_a_load_go_into_its_breaker(self) -> None:
        load = example_of(LoadRecord)
        assert sorted(references_of(load.latest)) == [
            ("breaker.device", EntityKind.DEVICE, "breaker-aau-1"),
            ("meter", EntityKind.CIRCUIT, "circuit-aau-1"),
            ("site", EntityKind.SITE, SITE),
        ]

    def test_absent_references_are_left_out(self) -> None:
        fields = {"id": "d", "name": "d", "valid_from": T0, "version": 1, "changed_by": "u"}
        device = Device.model_validate({**fields, "kind": "breaker", "site": "s"})
        assert references_of(device) == [("site", EntityKind.SITE, "s")]
        load = Load.model_validate({**fields, "kind": "aau", "site": "s"})
        assert references_of(load) == [("site", EntityKind.SITE, "s")]

    @pytest.mark.parametrize(
        ("changes", "obstacle"),
        [
            ({}, None),
            ({"never_off": True}, "never_off"),
            ({"breaker": None}, "no_breaker"),
            ({"sector": None}, "no_sector"),
            ({"sector": None, "kind": LoadKind.LIGHTING}, None),
        ],
    )
    def test_load_enters_a_plan_only_with_breaker_and_sector(
        self, changes: dict[str, object], obstacle: str | None
    ) -> None:
        load = example_of(LoadRecord).latest
        assert load.model_copy(update=changes).plan_obstacle == obstacle

    @pytest.mark.parametrize(
        ("code", "level"),
        [("440000", RegionLevel.PROVINCE), ("440100", RegionLevel.CITY), ("440106", RegionLevel.DISTRICT)],
    )
    def test_region_level_follows_from_its_code(self, code: str, level: RegionLevel) -> None:
        region = Region(id="r", name="r", valid_from=T0, version=1, changed_by="u", code=code)
        assert region.level is level

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", "with space"),
            ("id", "../x"),
            ("id", ""),
            ("name", ""),
            ("timezone", "Mars/Olympus"),
            ("timezone", "/etc/passwd"),
            ("lon", 181.0),
            ("lat", -91.0),
            ("station_class", "F"),
            ("kind", "castle"),
            ("version", 0),
        ],
    )
    def test_impossible_site_is_refused(self, field: str, value: object) -> None:
        with pytest.raises(ValidationError, match=field):
            Site.model_validate({**site().model_dump(), field: value})

    def test_circuit_is_somewhere(self) -> None:
        fields = {"id": "c", "name": "c", "valid_from": T0, "version": 1, "changed_by": "u", "level": 1}
        with pytest.raises(ValidationError, match="site or room"):
            ENTITY_TYPES[EntityKind.CIRCUIT].model_validate({**fields, "role": "load"})
