"""What a poll is answered with: newest, fresh, and never a number that nobody measured."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from libs.common.contracts.telemetry import Quality, Reading
from libs.common.ids import DeviceId, SiteId
from services.export.dialects import Dialects
from services.export.dialects.messages import DeviceRef, DeviceSelection, PointType, ValueState
from services.export.domain.latest import ActiveAlarm, LatestReadings, hour_of, latest_values, stored_values
from services.export.domain.mapping import MappedDevice, MappedPoint, Mapping, SourceKind

TOWER = Dialects.shipped().named("T")


NOW = datetime(2026, 3, 8, 6, 30, tzinfo=UTC)
REF = DeviceRef("44010641600021", "44010641600021")
ALL = (DeviceSelection(None, None),)


def row(kind: SourceKind, source: str, point_id: str, type_: PointType, level: int | None = None) -> MappedPoint:
    return MappedPoint(
        device_id="m-1",
        kind=kind,
        source=source,
        sc_device_id=REF.device_id,
        point_id=point_id,
        type=type_,
        level=level,
    )


MAPPING = Mapping(
    devices=(MappedDevice(ref=REF),),
    points=(
        row(SourceKind.POINT, "voltage_a", "0416104001", PointType.AI),
        row(SourceKind.POINT, "energy_active_import", "0416199001", PointType.AI),
        row(SourceKind.SIGNAL, "0s16001001", "0416001001", PointType.DI),
    ),
)


def reading(points: dict[str, float | None], *, age_s: float = 0, skew_s: float = 0, **changes: Any) -> Reading:
    received = NOW - timedelta(seconds=age_s)
    return Reading(
        device_id=DeviceId("m-1"), site_id=SiteId("s-1"), source_time=received + timedelta(seconds=skew_s),
        received_at=received, driver="modbus", points=points, **changes,
    )  # fmt: skip


def cache(*readings: Reading) -> LatestReadings:
    latest = LatestReadings()
    latest.keep({"m-1"})
    for each in readings:
        latest.observe(each)
    return latest


def ask(
    latest: LatestReadings, selection: Sequence[DeviceSelection] = ALL, active: Sequence[ActiveAlarm] = ()
) -> dict[str, tuple[float | None, ValueState]]:
    devices = latest_values(MAPPING, selection, latest=latest, active=active, type_of=TOWER.type_of_point, now=NOW)
    return {value.point_id: (value.value, value.state) for device in devices for value in device.values}


def test_the_newest_by_the_device_s_time_wins() -> None:
    answer = ask(cache(reading({"voltage_a": 230.0}, age_s=1), reading({"voltage_a": 229.0}, age_s=30)))
    assert answer["0416104001"] == (230.0, ValueState.NORMAL)


def test_stale_bad_missing_and_unknown_points_are_invalid_without_a_number() -> None:
    invalid = (None, ValueState.INVALID)
    assert ask(cache())["0416104001"] == invalid
    assert ask(cache(reading({"voltage_a": 230.0}, age_s=601)))["0416104001"] == invalid
    assert ask(cache(reading({"voltage_a": 230.0}, age_s=599)))["0416104001"] == (230.0, ValueState.NORMAL)
    assert ask(cache(reading({"voltage_a": None})))["0416104001"] == invalid
    bad = reading({"voltage_a": 230.0}, quality={"voltage_a": Quality.FROZEN})
    assert ask(cache(reading({"voltage_a": 231.0}, age_s=5), bad))["0416104001"] == invalid
    doubtful = reading({"voltage_a": 320.0}, quality={"voltage_a": Quality.SUSPECT})
    assert ask(cache(doubtful))["0416104001"] == (320.0, ValueState.NORMAL)


def test_slow_points_stay_fresh_longer() -> None:
    answer = ask(cache(reading({"voltage_a": 230.0, "energy_active_import": 12.5}, age_s=3700)))
    assert answer["0416104001"] == (None, ValueState.INVALID)
    assert answer["0416199001"] == (12.5, ValueState.NORMAL)


def test_an_alarm_point_is_one_with_its_level_while_the_alarm_holds() -> None:
    assert ask(cache())["0416001001"] == (0.0, ValueState.NORMAL)
    active = [ActiveAlarm("m-1", "0s16001001", 3), ActiveAlarm("m-2", "0s16001001", 1)]
    assert ask(cache(), active=active)["0416001001"] == (1.0, ValueState.MINOR)


def test_points_are_answered_as_they_are_asked() -> None:
    latest = cache(reading({"voltage_a": 230.0}))
    asked = (DeviceSelection(REF, ("0416104001", "0416555001")),)
    assert ask(latest, asked) == {
        "0416104001": (230.0, ValueState.NORMAL),
        "0416555001": (None, ValueState.INVALID),
    }
    assert set(ask(latest, (DeviceSelection(REF, None),))) == {"0416104001", "0416199001", "0416001001"}
    foreign = (DeviceSelection(DeviceRef("44010641600099", "44010641600099"), ("0416104001",)),)
    assert ask(latest, foreign) == {"0416104001": (None, ValueState.INVALID)}
    wrong_code = (DeviceSelection(DeviceRef(REF.device_id, "44010641600099"), ("0416104001",)),)
    assert ask(latest, wrong_code) == {"0416104001": (None, ValueState.INVALID)}
    by_id_alone = (DeviceSelection(DeviceRef(REF.device_id, ""), ("0416104001",)),)
    assert ask(latest, by_id_alone) == {"0416104001": (230.0, ValueState.NORMAL)}


def test_only_mapped_devices_are_kept() -> None:
    latest = cache()
    other = reading({"voltage_a": 1.0}).model_copy(update={"device_id": DeviceId("m-9")})
    latest.observe(other)
    assert not latest.holds("m-9")
    assert latest.take_samples() == []


def test_the_first_good_value_of_every_hour_is_sampled_once() -> None:
    latest = cache(
        reading({"voltage_a": None}, age_s=1800),
        reading({"voltage_a": 230.0}, age_s=1700),
        reading({"voltage_a": 231.0, "energy_active_import": 5.0}, age_s=1600),
        reading({"voltage_a": 232.0}, age_s=-1900),
    )
    samples = latest.take_samples()
    assert [(sample.point, sample.value, sample.hour) for sample in samples] == [
        ("voltage_a", 230.0, hour_of(NOW)),
        ("energy_active_import", 5.0, hour_of(NOW)),
        ("voltage_a", 232.0, hour_of(NOW + timedelta(hours=1))),
    ]
    assert latest.take_samples() == []
    latest.give_back(samples)
    assert latest.take_samples() == samples


def test_stored_samples_stand_in_until_something_newer_is_seen() -> None:
    stored = cache(reading({"voltage_a": 229.0, "energy_active_import": 5.0}, age_s=1700)).take_samples()
    latest = cache(reading({"voltage_a": 231.0}))
    latest.take_samples()
    latest.seed(stored)
    answer = ask(latest)
    assert answer["0416104001"] == (231.0, ValueState.NORMAL)
    assert answer["0416199001"] == (5.0, ValueState.NORMAL)
    latest.observe(reading({"energy_active_import": 6.0}))
    assert latest.take_samples() == [], "the hour has its sample already"


def test_history_gives_what_was_sampled_and_nothing_else() -> None:
    at = [NOW - timedelta(hours=2), NOW - timedelta(hours=1)]
    samples = {("m-1", "voltage_a"): [(at[0], 229.0), (at[1], 230.0)]}
    [device] = stored_values(MAPPING, ALL, samples)
    assert [(value.point_id, value.value, value.recorded_at) for value in device.values] == [
        ("0416104001", 229.0, at[0]),
        ("0416104001", 230.0, at[1]),
    ]
