"""The registry in the words of fault localisation: what a device hangs on, and what that says of its neighbours."""

from datetime import UTC, datetime, timedelta

from libs.common.contracts.registry import Binding, Device, Entity, Line, LineKind, Site, SiteKind, record_of
from libs.common.registry import RegistryIndex, RegistryView
from libs.common.testing.clock import FakeClock
from services.alarm.domain.diagnosis.subject import Installed, PlatformId
from services.alarm.field import Field

COMMON = {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "version": 1, "changed_by": "user:test"}
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def line(name: str, kind: LineKind, **more: object) -> Line:
    return Line.model_validate({"id": name, "name": name, "kind": kind, "endpoint": "gw:502", **more, **COMMON})


def device(name: str, on: str | None, address: str | None = None, **more: object) -> Device:
    facts = {"id": name, "name": name, "kind": "meter_3p", "site": "s-1", "line": on, "address": address, **more}
    return Device.model_validate({**facts, **COMMON})


class View(RegistryView):
    """The real view over records of the test's own instead of a topic."""

    def __init__(self, *entities: Entity) -> None:
        self._clock = FakeClock(NOW)
        self._index = RegistryIndex()
        self._callbacks = []
        site = Site.model_validate({"id": "s-1", "name": "One", "code": "1", "kind": SiteKind.BASE_STATION, **COMMON})
        for entity in (site, *entities):
            self._index.put(record_of([entity]))


def installed(view: View, device_id: str) -> Installed:
    found = Field(view, FakeClock(NOW)).installed(device_id)
    assert found is not None
    return found


def test_devices_of_a_bus_share_their_way_and_those_of_a_platform_share_none() -> None:
    view = View(
        line("bus", LineKind.RTU_OVER_TCP),
        line("aep", LineKind.AEP, settings={"product": 10000001}),
        device("m-1", "bus", "1"),
        device("m-2", "bus", "2"),
        device("n-1", "aep", "dev0001"),
        device("n-2", "aep", "dev0002"),
    )
    assert sorted(installed(view, "m-1").behind) == ["m-1", "m-2"]
    assert (installed(view, "m-1").by_platform, installed(view, "m-1").platform_id) == (False, None)
    assert list(installed(view, "n-1").behind) == []
    assert installed(view, "n-1").by_platform
    assert installed(view, "n-1").platform_id == PlatformId("10000001", "dev0001")


def test_what_is_behind_a_gateway_shares_it_whatever_its_line() -> None:
    view = View(
        line("mqtt", LineKind.MQTT),
        device("g-1", "mqtt", kind="gateway"),
        device("m-1", "mqtt", "a", parent="g-1"),
        device("m-2", "mqtt", "b", parent="g-1"),
        device("m-3", "mqtt", "c"),
    )
    assert sorted(installed(view, "m-1").behind) == ["m-1", "m-2"]
    assert installed(view, "m-1").place.gateway_id == "g-1"
    assert list(installed(view, "m-3").behind) == []


def test_channels_of_one_meter_share_its_address_without_a_conflict() -> None:
    view = View(
        line("bus", LineKind.SERIAL),
        device("c-1", "bus", "1", channel=1),
        device("c-2", "bus", "1", channel=2),
        device("m-1", "bus", "2"),
        device("m-2", "bus", "2"),
    )
    assert installed(view, "c-1").same_address == 1
    assert sorted(installed(view, "c-1").one_box) == ["c-1", "c-2"]
    assert installed(view, "m-1").same_address == 2


def test_a_device_that_was_taken_out_is_none() -> None:
    gone = device("m-1", None, decommissioned_at=NOW)
    leaving = device("m-2", None, decommissioned_at=NOW + timedelta(days=1))
    field = Field(View(gone, leaving), FakeClock(NOW))
    assert field.installed("m-1") is None
    assert field.installed("m-2") is not None


def test_a_finding_at_a_circuit_concerns_the_meters_that_measure_it() -> None:
    facts = {"id": "b-1", "name": "b", "device": "m-1", "circuit": "c-1", **COMMON}
    field = Field(View(device("m-1", None), Binding.model_validate(facts)), FakeClock(NOW))
    assert field.meters_of("c-1") == ["m-1"]
    assert field.meters_of("c-2") == []
