"""The device platform's pushes, signatures and task states, without a network."""

import base64
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import RejectReason
from libs.common.ctwing import AppKey, signed_headers
from libs.common.profiles import AepControl, AepEvent, AepProduct, ProfileCatalogue
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.aep import (
    Interface,
    Push,
    PushDecoder,
    PushKind,
    SimIds,
    TaskState,
    command_body,
    history_body,
    parse_push,
    task_state_of,
)
from services.ingest.domain.loose import number_of, time_of

PROFILE = ProfileCatalogue.load().get("aep_breaker_example")
assert PROFILE.aep is not None
DECODER = PushDecoder(PROFILE.points, PROFILE.aep)
NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)
APP = AppKey("demoAppKey01", "demoSecret01", "demoMasterKey")

DATA: dict[str, Any] = {
    "messageType": "dataReport",
    "tenantId": "20001234",
    "productId": "10000001",
    "deviceId": "dev0001",
    "protocol": "lwm2m",
    "topic": "v1/up/ad19",
    "timestamp": 1700000000000,
    "serviceId": "data_report",
    "payload": {"voltage": 2301, "current": "1250", "switch_state": 1, "who_knows": [1, 2]},
    "IMEI": "860000000000001",
    "IMSI": "undefined",
    "iccid": "89860000000000000012",
    "upPacketSN": "",
    "upDataSN": -1,
    "assocAssetId": "",
}


def message(**changed: Any) -> bytes:
    return orjson.dumps({**DATA, **changed})


def push(**changed: Any) -> Push:
    found = parse_push(message(**changed))
    assert isinstance(found, Push), found
    return found


def refused(raw: bytes) -> Refused:
    found = parse_push(raw)
    assert isinstance(found, Refused)
    assert found.detail_zh
    return found


class TestSignature:
    """The vectors of southbound.md 11.1, which follow public clients of the platform."""

    def test_a_get_signs_its_parameters_and_the_master_key_sorted_by_name(self) -> None:
        headers = signed_headers(
            APP,
            timestamp_ms=1700000000000,
            version=Interface.COMMAND_STATE,
            params={"productId": "10000001", "deviceId": "dev0001"},
            body=b"",
        )
        assert headers["signature"] == "Cxolu0joGmHHN6KcvKaBYzN0qoE="
        assert headers["version"] == "20190712225241"

    def test_a_command_as_the_profile_has_it_gives_the_vector_s_body_and_signature(self) -> None:
        control = AepControl(
            name="breaker_open",
            read_back=PROFILE.controls["breaker_open"].read_back,
            service="switch_set",
            params={"switch": 0},
            ttl_s=7200,
        )
        body = command_body(product="10000001", device="dev0001", operator="op", control=control, value=None)
        assert body == (
            b'{"productId":10000001,"deviceId":"dev0001","operator":"op","ttl":7200,"level":1,'
            b'"content":{"serviceIdentifier":"switch_set","params":{"switch":0}}}'
        )
        headers = signed_headers(APP, timestamp_ms=1700000000000, version=Interface.COMMAND, params={}, body=body)
        assert headers["signature"] == "0nf0WPiQxQ9yh8ka4XyJuNSurTM="

    def test_secrets_do_not_show(self) -> None:
        assert "demoSecret01" not in repr(APP)
        assert "demoMasterKey" not in repr(APP)


class TestParsing:
    def test_a_data_report_with_the_oddities_seen_in_the_wild(self) -> None:
        found = push()
        assert (found.kind, found.tenant, found.product, found.device) == (
            PushKind.DATA, "20001234", "10000001", "dev0001",
        )  # fmt: skip
        assert found.at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
        assert found.ids == SimIds(imei="860000000000001", imsi=None, iccid="89860000000000000012")

    @pytest.mark.parametrize("changed", [{"productId": 10000001}, {"tenantId": 20001234}, {"deviceId": 77}])
    def test_ids_come_as_text_or_number(self, changed: dict[str, Any]) -> None:
        found = push(**changed)
        assert (found.product, found.tenant) == ("10000001", "20001234")
        assert found.device == str(changed.get("deviceId", "dev0001"))

    def test_a_time_in_text_is_read_and_none_is_guessed(self) -> None:
        assert push(timestamp="1700000000000").at == push().at
        wrongs: tuple[Any, ...] = (None, "", "2023-11-14", True, -1, 0, [], 1e400)
        for wrong in wrongs:
            assert refused(message(timestamp=wrong)).reason is RejectReason.UNREADABLE_TIME

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"", RejectReason.UNDECODABLE),
            (b"[]", RejectReason.UNDECODABLE),
            (b'{"messageType": "dataReport", "payload": {"v": NaN}}', RejectReason.UNDECODABLE),
            (message(messageType="somethingNew"), RejectReason.UNDECODABLE),
            (message(deviceId="undefined"), RejectReason.MISSING_FIELD),
            (message(deviceId="a b"), RejectReason.MISSING_FIELD),
            (message(payload=None), RejectReason.MISSING_FIELD),
            (message(payload={}), RejectReason.MISSING_FIELD),
            (message(payload={"APPdata": "not base64!"}), RejectReason.UNDECODABLE),
            (message(messageType="eventReport", serviceId="", eventContent={}), RejectReason.MISSING_FIELD),
            (message(messageType="eventReport", eventContent=[]), RejectReason.UNDECODABLE),
            (message(messageType="commandResponse"), RejectReason.MISSING_FIELD),
            (message(messageType="deviceOnlineOfflineReport", eventType=2), RejectReason.UNDECODABLE),
        ],
    )
    def test_what_cannot_be_understood_is_refused_with_its_reason(self, raw: bytes, reason: RejectReason) -> None:
        assert refused(raw).reason is reason

    def test_depth_is_no_weapon(self) -> None:
        raw = message(payload={"a": "HERE"}).replace(b'"HERE"', b"[" * 600 + b"]" * 600)
        assert refused(raw).detail == "payload: nested too deeply"

    def test_transparent_payload(self) -> None:
        frame = bytes.fromhex("68341200000000689108333334338967453316")
        found = push(payload={"APPdata": base64.b64encode(frame).decode()}, serviceId="")
        assert (found.app_data, found.service) == (frame, None)

    def test_command_response_and_connectivity(self) -> None:
        found = push(messageType="commandResponse", taskId=15, result={"resultCode": "DELIVERED", "resultDetail": ""})
        assert (found.task, found.result) == ("15", "DELIVERED")
        assert push(messageType="deviceOnlineOfflineReport", eventType="0").online is False
        assert push(messageType="deviceOnlineOfflineReport", eventType=1).online is True

    def test_repetitions_have_one_key_and_different_messages_two(self) -> None:
        assert push(upDataSN=4, upPacketSN=9).key == push().key
        assert push(productId=10000001).key == push().key
        assert push(timestamp=1700000000001).key != push().key
        assert push(payload={"voltage": 2302}).key != push().key
        assert push(serviceId="other").key != push().key

    @given(st.binary(max_size=200))
    @example(b'{"messageType":"dataReport","deviceId":"d","timestamp":1e308,"payload":{"a":1}}')
    def test_any_bytes_get_an_answer(self, raw: bytes) -> None:
        assert isinstance(parse_push(raw), Push | Refused)

    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )

    @given(
        st.dictionaries(st.sampled_from(sorted(DATA)), values, max_size=6),
        st.sampled_from(list(PushKind)),
        st.dictionaries(st.sampled_from(["voltage", "switch_state", "rsrp", "energy", "cell_id", "pci"]), values),
    )
    def test_any_message_is_read_or_refused_and_decoded(
        self, changed: dict[str, Any], kind: PushKind, payload: dict[str, Any]
    ) -> None:
        raw = orjson.dumps({**DATA, "payload": payload, "eventContent": payload, **changed, "messageType": kind})
        found = parse_push(raw)
        if isinstance(found, Refused):
            return
        decoded = DECODER.decode(found)
        assert all(value is None or abs(value) < float("inf") for value in decoded.raw.values())
        assert all(event.phase in ("begin", "end", "once") for event in DECODER.events(found))


class TestDecoding:
    def test_parameters_become_points_and_strangers_are_passed_over(self) -> None:
        assert DECODER.decode(push()).raw == {"voltage_a": 2301, "current_a": 1250, "breaker_state": 1}

    def test_a_point_of_another_service_is_not_read(self) -> None:
        found = DECODER.decode(push(serviceId="signal_report", payload={"voltage": 1, "rsrp": -101, "switch_state": 0}))
        assert found.raw == {"signal_rsrp": -101, "breaker_state": 0}

    def test_what_is_no_number_is_no_value(self) -> None:
        given_: dict[str, Any] = {
            "voltage": "undefined",
            "current": "",
            "active_power": None,
            "energy": "12.5 kWh",
            "temperature": [],
        }
        assert set(DECODER.decode(push(payload=given_)).raw.values()) == {None}

    def test_cell_goes_to_the_status(self) -> None:
        found = DECODER.decode(push(serviceId="signal_report", payload={"cell_id": 123456, "pci": "77", "rsrp": -90}))
        assert (found.cell_id, found.pci) == ("123456", 77)

    def test_the_device_s_own_time(self) -> None:
        decoder = PushDecoder(PROFILE.points, AepProduct(time_param="t", time_unit="s"))
        assert decoder.decode(push(payload={"t": "1700000100", "voltage": 1})).device_time == datetime(
            2023, 11, 14, 22, 15, tzinfo=UTC
        )
        assert decoder.decode(push(payload={"t": "yesterday", "voltage": 1})).device_time is None

    @pytest.mark.parametrize(
        ("value", "number"),
        [(1, 1), (1.5, 1.5), ("230", 230), (" -2.50 ", -2.5), ("1e3", 1000.0), (True, 1), (False, 0),
         ("0x10", None), ("1,5", None), ("NaN", None), ("Infinity", None), ("1e999", None), (None, None),
         ({}, None), ("9" * 91, None), ("9" * 41, 1e41), ("٣", None)],
    )  # fmt: skip
    def test_numbers(self, value: object, number: float | None) -> None:
        assert number_of(value) == number

    @given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text())
    def test_a_time_is_a_time_or_none(self, value: object) -> None:
        found = time_of(value, "ms")
        assert found is None or found > datetime(1970, 1, 1, tzinfo=UTC)


class TestEvents:
    def event(self, **changed: Any) -> list[tuple[str, str, int | None]]:
        found = DECODER.events(push(messageType="eventReport", **{"eventType": 3, "eventContent": {}, **changed}))
        return [(one.code, one.phase, one.severity) for one in found]

    def test_begin_and_end_by_the_parameter(self) -> None:
        assert self.event(serviceId="overload_alarm", eventContent={"state": "1"}) == [("overload", "begin", 2)]
        assert self.event(serviceId="overload_alarm", eventContent={"state": 0}) == [("overload", "end", 2)]
        assert self.event(serviceId="overload_alarm", eventContent={"state": 7}) == []

    def test_an_event_without_parameter_just_happens(self) -> None:
        assert self.event(serviceId="test_button") == [("test_button", "once", 4)]

    def test_an_unknown_event_is_told_all_the_same(self) -> None:
        assert self.event(serviceId="Door-Open!", eventType=2) == [("aep_door_open", "once", 3)]
        assert self.event(serviceId=8001, eventType=1) == [("aep_8001", "once", 4)]
        assert self.event(serviceId="门", eventType=None) == [("aep_event", "once", None)]

    def test_one_report_may_hold_several_alarms(self) -> None:
        events = tuple(
            AepEvent(service="alarms", code=name, text=name, text_zh=name, param=name) for name in ("fire", "water")
        )
        decoder = PushDecoder({}, AepProduct(events=events))
        content = {"fire": 1, "water": 0}
        found = decoder.events(push(messageType="eventReport", serviceId="alarms", eventContent=content))
        assert [(one.code, one.phase) for one in found] == [("fire", "begin"), ("water", "end")]


class TestCommands:
    control = AepControl(
        name="ac_set_temperature",
        read_back=PROFILE.controls["breaker_open"].read_back,
        service="ac_set",
        params={"target": None, "mode": 1},
        ttl_s=60,
        min=16,
        max=30,
    )

    def body(self, value: float | None) -> Any:
        return orjson.loads(
            command_body(product="p-1", device="d", operator="wattring", control=self.control, value=value)
        )

    def test_the_command_s_value_goes_where_the_profile_says(self) -> None:
        assert self.body(26.0)["content"]["params"] == {"target": 26, "mode": 1}
        assert self.body(26.5)["content"]["params"] == {"target": 26.5, "mode": 1}
        assert self.body(16)["productId"] == "p-1"

    @pytest.mark.parametrize("value", [None, 15.9, 30.1, float("nan"), float("inf")])
    def test_a_value_outside_is_refused(self, value: float | None) -> None:
        with pytest.raises(ValueError, match="ac_set_temperature"):
            self.body(value)

    @pytest.mark.parametrize(
        ("code", "state"),
        [("SENT", TaskState.SENT), ("successful", TaskState.COMPLETED), (4, TaskState.COMPLETED),
         ("999", TaskState.FAILED), (999, TaskState.FAILED), ("EXPIRED", TaskState.EXPIRED), ("odd", None), (5, None)],
    )  # fmt: skip
    def test_states_by_word_and_by_number(self, code: object, state: TaskState | None) -> None:
        assert task_state_of(code) is state

    @given(st.lists(st.sampled_from(list(TaskState)), min_size=1))
    def test_the_order_of_the_news_does_not_matter(self, news: list[TaskState]) -> None:
        """The furthest is what holds; a device's own answer wins over a conclusion from silence."""
        assert max(news) is max(reversed(news))
        assert max([TaskState.TIMED_OUT, TaskState.COMPLETED]) is TaskState.COMPLETED
        assert not TaskState.DELIVERED.is_final


class TestHistory:
    """Records of the platform's history."""

    def test_a_record_is_a_report_without_its_service(self) -> None:
        found = DECODER.remembered({"timestamp": "1700000000000", "energy": "100001", "stranger": 1})
        assert found == (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), {"energy_active_import": 100001.0})

    @given(
        st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5), st.lists)
        | st.dictionaries(st.sampled_from(["timestamp", "energy", "switch", "x"]), st.integers() | st.text())
    )
    def test_any_record_is_read_or_passed_over(self, record: object) -> None:
        found = DECODER.remembered(record)
        assert found is None or (found[0].tzinfo is not None and found[1])

    def test_history_is_asked_without_master_key(self) -> None:
        body = history_body(product="10000001", device="dev0001", since=NOON, until=NOON, page=None)
        assert orjson.loads(body).keys() == {"productId", "deviceId", "begin_timestamp", "end_timestamp", "page_size"}
        app = AppKey("demoAppKey01", "demoSecret01", None)
        headers = signed_headers(app, timestamp_ms=1700000000000, version=Interface.HISTORY, params={}, body=body)
        assert "MasterKey" not in headers
