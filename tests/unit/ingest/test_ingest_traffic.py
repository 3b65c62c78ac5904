"""The traffic of loads in the generic push: how a load is named, and what is refused."""

from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.registry import EntityKind, Load, LoadKind, record_of
from libs.common.contracts.telemetry import Quality, Reading, RejectReason
from libs.common.ids import LoadId, SiteId
from services.ingest.bus import reading_message
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.traffic import (
    LoadName,
    TrafficReport,
    names_a_load,
    read_traffic,
    report_of_load,
)
from services.ingest.usecases.addresses import LoadNames
from services.ingest.usecases.topology import Topology
from tests.unit.ingest.ingest_fakes import LONG_AGO

NOW = datetime.fromisoformat("2026-06-01T00:00:00+00:00")
PAYLOAD: dict[str, Any] = {
    "load_id": "load-1",
    "source_time": "2026-06-01T08:00:00+08:00",
    "points": {"traffic_load": 12.5},
}


def load(load_id: str, element: str | None = None, sector: str | None = None, **changed: Any) -> Load:
    fields = {"name": load_id, "version": 1, "valid_from": LONG_AGO, "changed_by": "test", **changed}
    return Load(id=LoadId(load_id), kind=LoadKind.AAU, site=SiteId("site-1"), network_element_id=element,
                sector=sector, **fields)  # fmt: skip


def names_of(*loads: Load) -> tuple[LoadNames, Topology]:
    topology = Topology()
    found = LoadNames(topology)
    for one in loads:
        topology.put(record_of([one]))
    return found, topology


def read(**changed: Any) -> TrafficReport | Refused:
    return read_traffic({**PAYLOAD, **changed})


def test_a_report_names_its_load_and_stands_under_it_on_the_bus() -> None:
    found = read()
    assert isinstance(found, TrafficReport)
    report = report_of_load(found.said, load("load-1"), NOW, "push")
    message = reading_message(report, "wattring.telemetry.readings.v1")
    assert dict(message.headers)["ce_subject"] == b"load-1"
    reading = Reading.from_json(message.value or b"")
    assert (reading.device_id, reading.load_id, reading.site_id) == ("load-1", "load-1", "site-1")
    assert (reading.points, reading.source_time) == ({"traffic_load": 12.5}, NOW)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"points": {"traffic_load": 1, "voltage_a": 230}}, RejectReason.UNKNOWN_POINT),
        ({"points": {"voltage_a": 230}}, RejectReason.UNKNOWN_POINT),
        ({"points": {"traffic_load": "12"}}, RejectReason.NOT_A_NUMBER),
        ({"points": {"traffic_load": 0.4}, "units": {"traffic_load": "kW"}}, RejectReason.WRONG_UNIT),
        ({"source_time": "2026-06-01T08:00:00"}, RejectReason.UNREADABLE_TIME),
        ({"load_id": "a b"}, RejectReason.UNDECODABLE),
        ({"load_id": None, "network_element_id": {}}, RejectReason.UNDECODABLE),
        ({"load_id": None, "network_element_id": "ne-1", "sector": []}, RejectReason.UNDECODABLE),
    ],
)
def test_what_is_refused(changed: dict[str, Any], reason: RejectReason) -> None:
    found = read(**changed)
    assert isinstance(found, Refused)
    assert found.reason is reason
    assert found.detail_zh


def test_more_than_all_is_suspect() -> None:
    found = read(points={"traffic_load": 130})
    assert isinstance(found, TrafficReport)
    assert found.said.quality == {"traffic_load": Quality.SUSPECT}


def test_a_device_is_no_load() -> None:
    assert not names_a_load({**PAYLOAD, "device_id": "meter-1"})
    assert not names_a_load([PAYLOAD])
    assert names_a_load({"network_element_id": 4711})


def test_the_radio_network_s_names() -> None:
    names, topology = names_of(load("a", "ne-1", "1"), load("b", "ne-1", "2"), load("c", "4711"))
    assert names.find(LoadName("b"), NOW) is not None
    found = names.find(LoadName(None, "ne-1", "2"), NOW)
    assert found is not None
    assert found.id == "b"
    assert names.find(LoadName(None, "ne-1"), NOW) is None  # two of that name
    assert names.find(LoadName(None, "ne-1", "3"), NOW) is None
    assert names.find(LoadName(None, "4711"), NOW) is not None
    moved = load("c", "ne-9", version=2, valid_from=LONG_AGO + timedelta(days=1))
    former = load("c", "4711", valid_to=LONG_AGO + timedelta(days=1))
    topology.put(record_of([former, moved]))
    assert names.find(LoadName(None, "4711"), NOW) is None
    assert names.find(LoadName(None, "ne-9"), NOW) is not None
    assert topology.revision(EntityKind.LOAD, "c") == 2


@given(
    st.dictionaries(
        st.sampled_from(["load_id", "network_element_id", "sector", "source_time", "points", "units", "quality"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.dictionaries(st.text(), st.floats()),
    )
)
def test_any_object_is_read_or_refused(payload: dict[str, Any]) -> None:
    found = read_traffic(orjson.loads(orjson.dumps(payload)) if _is_plain(payload) else payload)
    assert isinstance(found, TrafficReport | Refused)


def _is_plain(payload: dict[str, Any]) -> bool:
    try:
        orjson.dumps(payload)
    except TypeError:
        return False
    return True
