"""What alarm makes of the registry."""

from datetime import UTC, datetime

import pytest

from libs.common.contracts.registry import (
    Binding,
    BreakerRef,
    Circuit,
    CircuitRole,
    Device,
    Entity,
    EntityState,
    Load,
    LoadKind,
    Region,
    Site,
    SiteKind,
    StationClass,
    record_of,
)
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryIndex, RegistryView
from libs.common.testing.clock import FakeClock
from libs.common.tokens import Principal
from services.alarm.directory import RegistryDirectory

COMMON = {"valid_from": datetime(2026, 1, 1, tzinfo=UTC), "version": 1, "changed_by": "user:test"}
ENTITIES: list[Entity] = [
    Region(id="gd", name="Guangdong", code="440000", **COMMON),
    Region(id="gz", name="Guangzhou", code="440100", parent="gd", **COMMON),
    Site(id="s-1", name="One", name_zh="一", code="1", kind=SiteKind.EXCHANGE, region="gz",
         station_class=StationClass.B, **COMMON),
    Site(id="s-2", name="Two", code="2", kind=SiteKind.BASE_STATION, **COMMON),
    Device(id="m-1", name="Meter", kind="meter_3p", site="s-1", profile="eastron_sdm630", **COMMON),
    Device(id="b-1", name="Breaker", kind="breaker", site="s-2", profile="lx47le_125", **COMMON),
    Device(id="g-1", name="Gateway", kind="gateway", site="s-2", **COMMON),
    Circuit(id="c-1", name="AAU", level=3, role=CircuitRole.LOAD, site="s-2", **COMMON),
    Binding(id="x-1", name="Binding", device="m-1", circuit="c-1", **COMMON),
    Load(id="l-1", name="AAU", kind=LoadKind.AAU, site="s-2", sector="1", breaker=BreakerRef(device="b-1"),
         meter="c-1", **COMMON),
]  # fmt: skip


class View(RegistryView):
    """The real view over records of the test's own instead of a topic."""

    def __init__(self) -> None:
        self._clock = FakeClock()
        self._index = RegistryIndex()
        self._callbacks = []
        for entity in ENTITIES:
            self._index.put(record_of([entity]))

    def change(self, entity: Entity) -> None:
        self._index.put(record_of([entity], state=entity.state))
        for callback in self._callbacks:
            callback(entity.kind_of, entity.id)


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def directory(view: View) -> RegistryDirectory:
    return RegistryDirectory(view, ProfileCatalogue.load(), default_class="D")


def test_a_device_has_the_class_of_its_site_and_the_points_of_its_profile(directory: RegistryDirectory) -> None:
    meter, breaker = directory.target("m-1"), directory.target("b-1")
    assert meter is not None
    assert (meter.site_id, meter.kind, meter.station_class) == ("s-1", "meter_3p", "B")
    assert {"voltage_a", "voltage_c", "frequency"} <= meter.points
    assert breaker is not None
    assert breaker.station_class == "D", "the default of a site without a class"
    assert "voltage_a" in breaker.points
    assert "voltage_b" in breaker.optional_points


def test_a_device_without_a_profile_has_no_points(directory: RegistryDirectory) -> None:
    gateway = directory.target("g-1")
    assert gateway is not None
    assert gateway.all_points == frozenset()


def test_nothing_is_known_of_strangers(directory: RegistryDirectory) -> None:
    assert directory.target("nobody") is None
    assert not directory.is_removed("nobody")


def test_a_removed_device_is_gone_and_noted(view: View, directory: RegistryDirectory) -> None:
    gone = datetime(2026, 2, 1, tzinfo=UTC)
    view.change(
        Device(
            id="m-1",
            name="Meter",
            kind="meter_3p",
            site="s-1",
            state=EntityState.REMOVED,
            valid_to=gone,
            **COMMON,
        )
    )
    assert directory.target("m-1") is None
    assert directory.is_removed("m-1")
    assert directory.take_changed() == {"m-1"}
    assert directory.take_changed() == set()


def test_a_changed_site_concerns_its_devices(view: View, directory: RegistryDirectory) -> None:
    view.change(Site(id="s-2", name="Two", code="2", kind=SiteKind.EXCHANGE, station_class=StationClass.A, **COMMON))
    assert directory.take_changed() == {"b-1", "g-1"}
    breaker = directory.target("b-1")
    assert breaker is not None
    assert breaker.station_class == "A"


def test_a_load_takes_the_supply_of_its_breaker_and_its_meter(directory: RegistryDirectory) -> None:
    assert directory.fed_by("l-1") == ["b-1", "m-1"]
    assert directory.fed_by("nobody") == []


@pytest.mark.parametrize(
    ("limits", "sites"),
    [
        (None, None),
        ((), frozenset()),
        (("s-2",), frozenset({"s-2"})),
        (("region:gz",), frozenset({"s-1"})),
        (("region:gd", "s-2"), frozenset({"s-1", "s-2"})),
        (("region:none",), frozenset()),
    ],
)
def test_who_is_limited_to_regions_sees_the_sites_in_them(
    directory: RegistryDirectory, limits: tuple[str, ...] | None, sites: frozenset[str] | None
) -> None:
    who = Principal("wang", "user", frozenset({"alarm:read"}), limits)
    assert directory.sites_of(who) == sites


def test_all_kinds_of_the_shipped_rules_are_categories_of_profiles() -> None:
    from services.alarm.dictionary import load_shipped

    categories = {profile.category for profile in ProfileCatalogue.load()}
    assert {kind for row in load_shipped().rules.values() for kind in row.device_kinds} <= categories
