"""The registry in memory: answers for any time, however the records came."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.registry import (
    ENTITY_TYPES,
    Binding,
    Circuit,
    Device,
    Entity,
    EntityKind,
    EntityState,
    Line,
    Load,
    RegistryRecord,
    Room,
    Site,
    record_of,
)
from libs.common.ids import CircuitId, DeviceId, LineId, LoadId, RegionId, RoomId, SiteId
from libs.common.registry import RegistryIndex

T0 = datetime(2026, 1, 1, tzinfo=UTC)
REQUIRED: dict[EntityKind, dict[str, Any]] = {
    EntityKind.REGION: {"code": "440000"},
    EntityKind.SITE: {"code": "1", "kind": "idc"},
    EntityKind.ROOM: {"site": "s", "code": "1"},
    EntityKind.LINE: {"kind": "tcp", "endpoint": "h:1"},
    EntityKind.DEVICE: {"kind": "meter_3p", "site": "s"},
    EntityKind.CIRCUIT: {"level": 1, "role": "load", "site": "s"},
    EntityKind.BINDING: {"device": "d", "circuit": "c"},
    EntityKind.LOAD: {"kind": "aau", "site": "s"},
}


def day(number: float) -> datetime:
    return T0 + timedelta(days=number)


def version(kind: EntityKind, entity_id: str, *, start: float = 0, end: float | None = None, **fields: Any) -> Entity:
    return ENTITY_TYPES[kind].model_validate(
        {
            "id": entity_id,
            "name": entity_id,
            "valid_from": day(start),
            "valid_to": None if end is None else day(end),
            "version": 1,
            "changed_by": "user:test",
            **REQUIRED[kind],
            **fields,
        }
    )


def index_of(*records: RegistryRecord) -> RegistryIndex:
    index = RegistryIndex()
    for record in records:
        index.put(record)
    return index


def record(kind: EntityKind, entity_id: str, **fields: Any) -> RegistryRecord:
    return record_of([version(kind, entity_id, **fields)])


def ids(entities: Sequence[Entity]) -> list[str]:
    return sorted(entity.id for entity in entities)


def test_entities_are_found_by_their_kind() -> None:
    index = index_of(
        record(EntityKind.SITE, "s"),
        record(EntityKind.DEVICE, "d"),
        record(EntityKind.LINE, "l"),
        record(EntityKind.CIRCUIT, "c"),
        record(EntityKind.LOAD, "x"),
        record(EntityKind.ROOM, "r"),
    )
    assert isinstance(index.site(SiteId("s"), T0), Site)
    assert isinstance(index.device(DeviceId("d"), T0), Device)
    assert isinstance(index.line(LineId("l"), T0), Line)
    assert isinstance(index.circuit(CircuitId("c"), T0), Circuit)
    assert isinstance(index.load(LoadId("x"), T0), Load)
    assert isinstance(index.room(RoomId("r"), T0), Room)
    assert index.device(DeviceId("s"), T0) is None
    assert index.site(SiteId("nothing"), T0) is None
    assert index.at(EntityKind.SITE, "s", T0) == index.site(SiteId("s"), T0)
    assert index.at(EntityKind.DEVICE, "s", T0) is None
    assert index.record(EntityKind.SITE, "s") is not None
    assert ids(list(index.all_of(Device, T0))) == ["d"]
    assert len(index) == 6


def test_answers_are_those_of_the_asked_time() -> None:
    moved = record_of(
        [
            version(EntityKind.DEVICE, "d", start=0, end=10, site="old", ct_ratio=10.0),
            version(EntityKind.DEVICE, "d", start=10, site="new", ct_ratio=20.0, version=2),
        ]
    )
    index = index_of(moved)
    before, after = index.device(DeviceId("d"), day(9.9)), index.device(DeviceId("d"), day(10))
    assert before is not None
    assert after is not None
    assert (before.ct_ratio, after.ct_ratio) == (10.0, 20.0)
    assert index.device(DeviceId("d"), day(-1)) is None
    assert ids(list(index.referring(Device, "site", "old", day(9.9)))) == ["d"]
    assert ids(list(index.referring(Device, "site", "old", day(10)))) == []
    assert ids(list(index.referring(Device, "site", "new", day(10)))) == ["d"]


def test_between_two_turns_no_answer_changes() -> None:
    index = index_of(
        record_of(
            [
                version(EntityKind.SITE, "s", start=0, end=10, name="old"),
                version(EntityKind.SITE, "s", start=10, end=20, version=2),
            ]
        ),
        record(EntityKind.DEVICE, "d", start=10, end=15),
    )
    ever, never = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert [index.unchanged_around(day(when)) for when in (-1, 0, 9.9, 10, 15, 20)] == [
        (ever, day(0)), (day(0), day(10)), (day(0), day(10)), (day(10), day(15)), (day(15), day(20)), (day(20), never),
    ]  # fmt: skip
    index.discard("d")
    assert index.unchanged_around(day(11)) == (day(10), day(20))
    index.put(record(EntityKind.SITE, "s", start=3))
    assert (index.unchanged_around(day(0)), index.unchanged_around(day(3))) == ((ever, day(3)), (day(3), never))


def test_replaced_meter_leaves_both_bindings_in_their_time() -> None:
    index = index_of(
        record(EntityKind.BINDING, "b1", device="m1", circuit="c", end=10, final_register=500.0),
        record(EntityKind.BINDING, "b2", device="m2", circuit="c", start=10, initial_register=7.0),
        record(EntityKind.BINDING, "b3", device="m1", circuit="other", start=11),
    )
    circuit = CircuitId("c")
    assert ids(index.bindings_of_circuit(circuit, day(9))) == ["b1"]
    assert ids(index.bindings_of_circuit(circuit, day(10))) == ["b2"]
    assert ids(index.bindings_of_device(DeviceId("m1"), day(9))) == ["b1"]
    assert ids(index.bindings_of_device(DeviceId("m1"), day(12))) == ["b3"]
    assert [binding.id for binding in index.binding_history(circuit)] == ["b1", "b2"]
    assert all(isinstance(binding, Binding) for binding in index.binding_history(circuit))


def test_circuits_of_a_site_include_those_of_its_rooms() -> None:
    index = index_of(
        record(EntityKind.ROOM, "r", site="s"),
        record(EntityKind.CIRCUIT, "feed", site="s"),
        record(EntityKind.CIRCUIT, "in-room", site=None, room="r"),
        record(EntityKind.CIRCUIT, "both", site="s", room="r"),
        record(EntityKind.CIRCUIT, "elsewhere", site="t"),
        record(EntityKind.CIRCUIT, "lost", site=None, room="unknown"),
    )
    site = SiteId("s")
    assert ids(index.circuits_of_site(site, T0)) == ["both", "feed", "in-room"]
    places = {c.id: index.site_of_circuit(c, T0) for c in index.all_of(Circuit, T0)}
    assert places == {"feed": "s", "in-room": "s", "both": "s", "elsewhere": "t", "lost": None}


def test_removed_entity_is_gone_now_and_there_then() -> None:
    gone = record_of([version(EntityKind.DEVICE, "d", end=10)], state=EntityState.REMOVED)
    index = index_of(gone)
    assert index.device(DeviceId("d"), day(11)) is None
    assert index.device(DeviceId("d"), day(9)) is not None
    assert list(index.all_of(Device, day(11))) == []
    assert list(index.referring(Device, "site", "s", day(11))) == []


def test_discarded_record_leaves_nothing_behind() -> None:
    index = index_of(record(EntityKind.DEVICE, "d", line="l"))
    assert index.discard("d") is EntityKind.DEVICE
    assert index.discard("d") is None
    assert len(index) == 0
    assert list(index.referring(Device, "line", "l", T0)) == []


def test_id_that_changes_its_kind_is_found_under_the_new_one_only() -> None:
    index = index_of(record(EntityKind.DEVICE, "x"), record(EntityKind.LINE, "x"))
    assert index.device(DeviceId("x"), T0) is None
    assert index.line(LineId("x"), T0) is not None
    assert len(index) == 1


def test_regions_above_end_at_the_top_or_in_a_loop() -> None:
    index = index_of(
        record(EntityKind.REGION, "province"),
        record(EntityKind.REGION, "city", parent="province"),
        record(EntityKind.REGION, "district", parent="city"),
        record(EntityKind.REGION, "a", parent="b"),
        record(EntityKind.REGION, "b", parent="a"),
    )
    assert index.regions_above(RegionId("district"), T0) == ["district", "city", "province"]
    assert index.regions_above(RegionId("a"), T0) == ["a", "b"]
    assert index.regions_above(RegionId("unknown"), T0) == ["unknown"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["d1", "d2", "d3"]),
            st.sampled_from(["put", "discard"]),
            st.sampled_from(["s1", "s2"]),
            st.sampled_from(["s1", "s2"]),
        ),
        max_size=30,
    )
)
def test_index_equals_a_scan_after_any_changes(steps: list[tuple[str, str, str, str]]) -> None:
    index = RegistryIndex()
    truth: dict[str, RegistryRecord] = {}
    for entity_id, action, first, second in steps:
        if action == "put":
            truth[entity_id] = record_of(
                [
                    version(EntityKind.DEVICE, entity_id, end=10, site=first),
                    version(EntityKind.DEVICE, entity_id, start=10, site=second, version=2),
                ]
            )
            index.put(truth[entity_id])
        else:
            index.discard(entity_id)
            truth.pop(entity_id, None)
    for site in ("s1", "s2"):
        for when in (day(5), day(15)):
            expected = sorted(
                i for i, r in truth.items() if (v := r.at(when)) and isinstance(v, Device) and v.site == site
            )
            assert ids(list(index.referring(Device, "site", site, when))) == expected
    assert len(index) == len(truth)
