"""The registry's loads, as control remembers them."""

from types import SimpleNamespace
from typing import Any, cast

from libs.common.contracts.control import CommandAction
from libs.common.contracts.registry import Device, DeviceRecord
from libs.common.registry import RegistryView
from libs.common.testing.clock import FakeClock
from services.control.directory import RegistryDevices, RegistryLoads
from tests.integration.control.fake_ingest import START, records


def test_a_load_asked_for_before_the_registry_was_read_is_known_once_it_has_been() -> None:
    clock = FakeClock()
    nothing = cast(Any, None)
    view = RegistryView(bus=nothing, db=nothing, clock=clock)
    loads = RegistryLoads(view, clock)
    assert loads.get("aau-1") is None
    for record in records(["aau-1"]):
        view.index.put(record)  # as a start does, which calls nobody back
    view._tail = cast(Any, SimpleNamespace(ready=True))
    found = loads.get("aau-1")
    assert found is not None
    assert loads.get("aau-1") is found


def test_a_station_is_restarted_with_all_that_is_on_its_line_and_other_devices_alone() -> None:
    clock = FakeClock()
    nothing = cast(Any, None)
    view = RegistryView(bus=nothing, db=nothing, clock=clock)
    common = {"valid_from": START, "version": 1, "changed_by": "import:test"}
    for name, profile, line in (
        ("feeder-1", "iec60870_breaker_example", "line-104"), ("feeder-2", "iec60870_breaker_example", "line-104"),
        ("ac-1", "gree_umatch_ac", "line-1"), ("ac-2", "gree_umatch_ac", "line-1"),
        ("feeder-3", "iec60870_breaker_example", None),
    ):  # fmt: skip
        device = Device(id=name, name=name, kind="breaker", profile=profile, site="site-1", line=line, **common)
        view.index.put(DeviceRecord(kind="device", id=name, state="active", versions=(device,)))
    devices = RegistryDevices(view, [])
    assert set(devices.stopped_with("feeder-1")) == {"feeder-1", "feeder-2"}
    assert devices.stopped_with("ac-1") == ["ac-1"]
    assert devices.stopped_with("feeder-3") == ["feeder-3"]
    assert devices.stopped_with("gone") == ["gone"]
    assert {one.device_id for one in devices.at_site("site-1")} == {"feeder-1", "feeder-2", "feeder-3", "ac-1", "ac-2"}
    assert devices.tagged("hall") == devices.in_region("440100") == []
    known = devices.get("feeder-1")
    assert known is not None
    assert known.can_be_cared_for == {CommandAction.RESTART, CommandAction.SET_CLOCK}
    other = devices.get("ac-1")
    assert other is not None
    assert other.can_be_cared_for == frozenset()
