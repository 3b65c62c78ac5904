"""The registry's loads, as control remembers them."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

from libs.common.contracts.control import CommandAction
from libs.common.contracts.registry import Device, DeviceRecord, EntityKind, LoadRecord
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


def test_loads_are_those_of_now_whichever_way_the_clock_goes() -> None:
    clock = FakeClock()
    nothing = cast(Any, None)
    view = RegistryView(bus=nothing, db=nothing, clock=clock)
    view._tail = cast(Any, SimpleNamespace(ready=True))
    loads = RegistryLoads(view, clock)
    for record in records(["aau-1", "aau-2"]):
        view.index.put(record)
    soon = clock.now() + timedelta(days=400)
    old = view.index.record(EntityKind.LOAD, "aau-2")
    assert isinstance(old, LoadRecord)
    named = old.latest.model_copy(update={"valid_from": soon, "name": "renamed", "version": 2})
    ended = old.latest.model_copy(update={"valid_to": soon})
    view.index.put(old.model_copy(update={"versions": (ended, named)}))

    def names() -> list[str]:
        assert loads.at_site("site-1") == list(loads.all())
        return [load.name for load in loads.all()]

    assert names() == ["aau-1", "aau-2"]
    before = loads.get("aau-1")
    for wall in (soon - timedelta(seconds=1), soon - timedelta(hours=1), START):
        clock.set_wall(wall)
        assert names() == ["aau-1", "aau-2"]
        assert loads.get("aau-1") is before
    clock.set_wall(soon)
    assert names() == ["aau-1", "renamed"]
    clock.set_wall(soon - timedelta(hours=1))
    assert names() == ["aau-1", "aau-2"]


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
