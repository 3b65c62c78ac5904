"""One example of every payload: for the AsyncAPI document, for integrators, and for tests.

Two sites of an invented operator; the numbers are plausible and belong together where they can.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TypeVar

from libs.common.contracts.alarm import (
    AlarmAction,
    AlarmEvent,
    AlarmLevel,
    AlarmOrder,
    Condition,
    Confidence,
    Diagnosis,
    EndReason,
    EvidenceItem,
    MaintenanceScope,
    MaintenanceWindow,
)
from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import Payload, Phase
from libs.common.contracts.carbon import (
    AttestationHead,
    CarbonResult,
    FinishedReport,
    Granularity,
    Interval,
    IntervalFlag,
    NodeKind,
    Period,
    ReportFile,
)
from libs.common.contracts.control import (
    Command,
    CommandAction,
    ControlEvent,
    Evidence,
    OccurrenceState,
    PlanEvent,
    Priority,
    Result,
    Stage,
)
from libs.common.contracts.delivery import DeliveryEvent, DeliveryState
from libs.common.contracts.device import (
    Battery,
    Connectivity,
    DeviceEvent,
    DeviceStatus,
    RadioSignal,
    SimState,
)
from libs.common.contracts.registry import (
    Binding,
    BreakerRef,
    Circuit,
    CircuitRole,
    Device,
    Entity,
    Line,
    LineKind,
    Load,
    LoadKind,
    Organisation,
    OrganisationKind,
    Region,
    Room,
    Sim,
    Site,
    SiteKind,
    StationClass,
    record_of,
)
from libs.common.contracts.telemetry import Heartbeat, Quality, Reading, Rejected, RejectReason
from libs.common.ids import (
    AlarmId,
    CircuitId,
    CommandId,
    DeviceId,
    LineId,
    LoadId,
    OccurrenceId,
    OrganisationId,
    PlanId,
    RegionId,
    RoomId,
    SimId,
    SiteId,
)

SITE = SiteId("site-baiyun-3")
METER = DeviceId("meter-1")
BREAKER = DeviceId("breaker-aau-1")
LINE = LineId("line-baiyun-3")
CIRCUIT = CircuitId("circuit-aau-1")
LOAD = LoadId("load-aau-1")
COMMAND = CommandId("0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a01")
OCCURRENCE = OccurrenceId("0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a02")
ALARM = AlarmId("0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a03")
COMMISSIONED = datetime(2026, 1, 1, tzinfo=UTC)
NIGHT = datetime(2026, 5, 31, 15, 59, 59, tzinfo=UTC)
"""23:59:59 in Shanghai."""
MORNING = datetime(2026, 5, 31, 22, 0, 0, tzinfo=UTC)
"""06:00:00 of the next day in Shanghai."""
AT = datetime(2026, 5, 31, 16, 0, 2, 250_000, tzinfo=UTC)


def _entities() -> tuple[Entity, ...]:
    return (
        Region(
            id="region-440100",
            name="Guangzhou",
            name_zh="广州市",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            code="440100",
        ),
        Organisation(
            id="org-1",
            name="Operator",
            name_zh="运营商",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            kind=OrganisationKind.OPERATOR,
        ),
        Site(
            id=SITE,
            name="Baiyun 3",
            name_zh="白云三号基站",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            code="GZ-BY-0003",
            kind=SiteKind.BASE_STATION,
            station_class=StationClass.C,
            region=RegionId("region-440100"),
            organisation=OrganisationId("org-1"),
            lon=113.27,
            lat=23.16,
            account_number="0300100200300",
            sc_routing=("sc-1",),
        ),
        Room(
            id="room-1",
            name="Equipment room",
            name_zh="机房",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            site=SITE,
            code="01",
        ),
        Line(
            id=LINE,
            name="Gateway of Baiyun 3",
            name_zh="白云三号网关",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            kind=LineKind.TCP,
            endpoint="10.1.3.20:502",
            pacing_ms=25.0,
        ),
        Sim(
            id="sim-1",
            name="SIM of the gateway",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            iccid="89860322482004123456",
            msisdn="1064912345678",
        ),
        Device(
            id=METER,
            name="Meter of AAU 1",
            name_zh="AAU1电表",
            valid_from=COMMISSIONED,
            version=2,
            changed_by="user:engineer",
            kind="meter_3p",
            site=SITE,
            room=RoomId("room-1"),
            line=LINE,
            address="1",
            serial="202601010001",
            profile="chint_dtsu666",
            ct_ratio=20.0,
            installed_at=COMMISSIONED,
            sim=SimId("sim-1"),
        ),
        Circuit(
            id=CIRCUIT,
            name="AAU 1",
            name_zh="AAU1回路",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            level=3,
            role=CircuitRole.LOAD,
            room=RoomId("room-1"),
            rated_power_kw=1.2,
        ),
        Binding(
            id="binding-1",
            name="Meter 1 on AAU 1",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            device=METER,
            circuit=CIRCUIT,
            initial_register=0.0,
        ),
        Load(
            id=LOAD,
            name="AAU 1",
            name_zh="AAU1",
            valid_from=COMMISSIONED,
            version=1,
            changed_by="import:registry.yaml",
            kind=LoadKind.AAU,
            site=SITE,
            network_element_id="gNB-4711-1",
            sector="1",
            coverage_layer=False,
            rated_power_kw=1.0,
            breaker=BreakerRef(device=BREAKER),
            meter=CIRCUIT,
        ),
    )


def _events() -> tuple[Payload, ...]:
    return (
        Reading(
            device_id=METER,
            site_id=SITE,
            source_time=AT,
            received_at=AT,
            driver="modbus",
            seq=4711,
            points={
                "voltage_a": 230.1,
                "active_power_total": 0.962,
                "energy_active_import": 1234.5,
                "temperature_device": 131.0,
                "frequency": None,
            },
            quality={"temperature_device": Quality.SUSPECT, "frequency": Quality.INVALID},
            line_id=LINE,
            profile="chint_dtsu666",
            ct_ratio=20.0,
            energy_ratio=20.0,
        ),
        Heartbeat(instance="ingest-0", partition=3, received_at=AT, seq=86400),
        Rejected(
            reason=RejectReason.NOT_A_NUMBER,
            source=LINE,
            received_at=AT,
            raw_base64=base64.b64encode(b'{"voltage_a": NaN}').decode(),
            detail="points.voltage_a: expected a finite number, found NaN",
            detail_zh="points.voltage_a:应为有限数值,实际为 NaN",
            driver="push",
        ),
        DeviceEvent(
            device_id=BREAKER,
            site_id=SITE,
            source_time=AT,
            code="overcurrent",
            phase=Phase.BEGIN,
            text="过流告警",
            received_at=AT,
        ),
        DeviceStatus(
            device_id=METER,
            site_id=SITE,
            connectivity=Connectivity.ONLINE,
            last_report_at=AT,
            texts={"meter_address": "202601010001"},
            signal=RadioSignal(rsrp_dbm=-97.0, sinr_db=8.5, coverage_level=0, at=AT),
            battery=Battery(),
            sim=SimState(iccid="89860322482004123456"),
        ),
        Command(
            command_id=COMMAND,
            site_id=SITE,
            device_id=BREAKER,
            line_id=LINE,
            action=CommandAction.OPEN,
            arguments={"channel": 1},
            not_after=datetime(2026, 5, 31, 16, 9, 59, tzinfo=UTC),
            restore_at=MORNING,
            off_at_most_s=21_601.0,
            issued_at=NIGHT,
            signature=base64.b64encode(bytes(64)).decode(),
            load_id=LOAD,
            occurrence_id=OCCURRENCE,
            plan_id=PlanId("plan-night"),
            priority=Priority.SCHEDULE,
            meter_device_id=METER,
        ),
        Result(
            command_id=COMMAND,
            site_id=SITE,
            stage=Stage.VERIFIED,
            evidence=Evidence(
                feedback_point="breaker_state",
                feedback_value=0.0,
                feedback_at=AT,
                meter_device_id=METER,
                meter_power_kw=0.0,
                meter_at=AT,
            ),
            epoch=17,
            at=AT,
            device_id=BREAKER,
            line_id=LINE,
        ),
        ControlEvent(
            site_id=SITE,
            state=OccurrenceState.SHUT_DOWN,
            at=AT,
            reason="verified",
            command_id=COMMAND,
            occurrence_id=OCCURRENCE,
            load_id=LOAD,
            device_id=BREAKER,
            plan_id=PlanId("plan-night"),
            off_at=AT,
            restore_at=MORNING,
        ),
        PlanEvent(
            plan_id=PlanId("plan-night"),
            state="approved",
            at=AT,
            name="night",
            load_count=1,
            first_date=date(2026, 6, 1),
            last_date=date(2026, 8, 31),
            zone="Asia/Shanghai",
            site_ids=(SITE,),
            actor="user:wang",
            created_by="user:li",
        ),
        Condition(
            site_id=SITE,
            source="ingest",
            kind="line_down",
            subject=LINE,
            phase=Phase.BEGIN,
            detail="10.1.3.20:502 refuses the connection",
            detail_zh="10.1.3.20:502 拒绝连接",
            at=AT,
            level=AlarmLevel.MAJOR,
        ),
        AlarmEvent(
            alarm_id=ALARM,
            site_id=SITE,
            sequence=2,
            phase=Phase.END,
            level=AlarmLevel.MINOR,
            signal="phase_voltage_low",
            device_id=METER,
            began_at=NIGHT,
            ended_at=AT,
            end_reason=EndReason.RECOVERED,
            signal_name="Phase voltage too low",
            signal_name_zh="相电压过低",
            point="voltage_a",
            value=230.1,
            threshold=198.0,
            unit="V",
        ),
        AlarmOrder(
            order_id="0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a05",
            site_id=SITE,
            alarm_id=ALARM,
            action=AlarmAction.SHELVE,
            actor="user:duty",
            at=AT,
            reason="the sensor is to be replaced on Monday",
            until=MORNING,
            device_id=METER,
            rule_key="phase_voltage_low",
        ),
        MaintenanceWindow(
            window_id="window-1",
            scope=MaintenanceScope(site_id=SITE, device_ids=(BREAKER,)),
            from_=NIGHT,
            to=MORNING,
            owner="user:duty",
            reason="breaker is replaced",
        ),
        Diagnosis(
            diagnosis_id="0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a04",
            site_id=SITE,
            device_id=METER,
            code="22",
            cause="bus_no_answer",
            evidence=(EvidenceItem(name="timeouts_in_a_row", value=12, at=AT, source="ingest"),),
            advice_zh="检查通信地址与接线",
            advice_en="Check address and wiring.",
            phase=Phase.BEGIN,
            at=AT,
            confidence=Confidence.HIGH,
        ),
        Interval(
            circuit_id=CIRCUIT,
            site_id=SITE,
            start=datetime(2026, 5, 31, 15, 45, tzinfo=UTC),
            end=datetime(2026, 5, 31, 16, 0, tzinfo=UTC),
            interval_flag=IntervalFlag.MEASURED,
            version=1,
            energy_kwh=0.24,
            device_id=METER,
            register_start=1234.26,
            register_end=1234.5,
        ),
        CarbonResult(
            node=SITE,
            period=Period(
                start=datetime(2026, 5, 31, 15, 0, tzinfo=UTC),
                end=datetime(2026, 5, 31, 16, 0, tzinfo=UTC),
                granularity=Granularity.HOUR,
            ),
            measure="emission_location_based",
            value=0.5123,
            unit="kgCO2e",
            completeness=1.0,
            version=1,
            node_kind=NodeKind.SITE,
            site_id=SITE,
            shares={IntervalFlag.MEASURED: 1.0},
            factor_id="GRID-CN-AVG-2022",
            factor_value=0.5366,
            factor_unit="kgCO2/kWh",
            factor_source="MEE/NBS announcement of 20 Dec 2024: 2022 electricity CO2 emission factors",
        ),
        AttestationHead(
            kind="tree_head",
            tree=date(2026, 6, 1),
            size=4_812_003,
            root="b7f3f0c07ad23a1ae4c1a3b0e8a5f4f9b6f6f1f0b8f2a3d4c5e6f708192a3b4c",
            at=AT,
            final=False,
            key="3f0c8a1d5e6b7c9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071",
            signature=base64.b64encode(bytes(64)).decode(),
        ),
        FinishedReport(
            report="park-monthly/2026-05",
            version=1,
            kind="energy_monthly",
            name="Energy of the park",
            start=datetime(2026, 4, 30, 16, tzinfo=UTC),
            end=datetime(2026, 5, 31, 16, tzinfo=UTC),
            digest="b7f3f0c07ad23a1ae4c1a3b0e8a5f4f9b6f6f1f0b8f2a3d4c5e6f708192a3b4c",
            made_at=AT,
            path="/api/v1/reports/park-monthly/2026-05/versions/1",
            files=(
                ReportFile(
                    format="pdf",
                    language="zh",
                    digest="3f0c8a1d5e6b7c9f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071",
                    size=182_340,
                ),
            ),
            completeness=0.998,
        ),
        DeliveryEvent(
            destination="sc-1",
            item="0192f3c0-5a7e-7c1d-9f60-1d2f7f3f1a05",
            state=DeliveryState.DELIVERED,
            attempts=2,
            at=AT,
            item_kind="alarm_end",
            site_id=SITE,
            alarm_id=ALARM,
        ),
        AuditEvent(
            actor="user:engineer",
            door="console",
            action="device.update",
            subject=f"device:{METER}",
            at=AT,
            before={"ct_ratio": 10.0},
            after={"ct_ratio": 20.0},
            reason="transformer was exchanged",
            site_id=SITE,
        ),
    )


def _all() -> Mapping[type[Payload], Payload]:
    records = [record_of([entity]) for entity in _entities()]
    return {type(example): example for example in (*_events(), *records)}


EXAMPLES: Mapping[type[Payload], Payload] = _all()
"""An example by its class."""

P = TypeVar("P", bound=Payload)


def example_of(payload: type[P]) -> P:
    """Return the example of a payload.

    Raises:
        KeyError: It is not on a topic.
    """
    found = EXAMPLES[payload]
    if not isinstance(found, payload):
        raise KeyError(payload)
    return found
