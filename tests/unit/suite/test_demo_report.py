"""The story from recorded answers of the API: complete, and with each thing missing in turn."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.suite.demo_report import Facts, story
from libs.suite.words import Words

ENGLISH = Words(chinese=False)
DELIVERY = {"unit_id": "44010600000003", "serial": "0000000001", "text": "交流电压过低告警(150.0V)"}
COMPLETE = Facts(
    now=datetime(2026, 11, 20, 22, 46, 50, tzinfo=UTC),
    devices=[{"id": "meter-tianhe-feed"}, {"id": "meter-huangpu-aau-1"}],
    latest=[{"source_time": "2026-11-20T22:46:48Z"}, {"source_time": "2026-11-20T22:46:44.5Z"}],
    imports=[
        {"file": "history.ndjson.gz", "state": "succeeded", "id": "imp", "counts": {"accepted": 5760},
         "finished_at": "2026-11-20T22:45:47Z"},
    ],
    alarm={
        "alarm_id": "7e642c30", "site_id": "site-gz-tianhe", "device_id": "meter-tianhe-feed", "point": "voltage_a",
        "value": 150.0, "threshold": 160.0, "unit": "V", "began_at": "2026-11-20T22:45:54Z",
        "raised_at": "2026-11-20T22:45:58Z", "ended_at": "2026-11-20T22:46:06Z", "closed_at": "2026-11-20T22:46:10Z",
    },
    deliveries=[
        {**DELIVERY, "step": "end", "state": "delivered", "finished_at": "2026-11-20T22:46:10.1Z"},
        {**DELIVERY, "step": "begin", "state": "delivered", "finished_at": "2026-11-20T22:45:58.1Z"},
    ],
    centre=[{**DELIVERY, "flag": "BEGIN"}, {**DELIVERY, "flag": "END"}],
    plan={"plan_id": "plan", "name": "Demonstration", "approved_at": "2026-11-20T22:45:46Z"},
    occurrence={
        "off_at": "2026-11-20T22:46:11Z", "on_at": "2026-11-20T22:46:36Z", "went_off_at": "2026-11-20T22:46:13.65Z",
        "came_on_at": "2026-11-20T22:46:39Z", "off_command_id": "off", "on_command_id": "on",
    },
    off_command={"command_id": "off", "state": "succeeded", "reason": "", "history": [
        {"state": "succeeded", "evidence": {"feedback_point": "breaker_state", "feedback_value": 0.0,
                                            "meter_device_id": "meter-huangpu-aau-1", "meter_power_kw": 0.0}}]},
    on_command={"command_id": "on", "state": "succeeded", "reason": "", "history": [
        {"state": "succeeded", "evidence": {"feedback_point": "breaker_state", "feedback_value": 1.0}}]},
    meter="meter-huangpu-aau-1",
    power=[
        {"source_time": f"2026-11-20T22:46:{second:02d}Z", "points": {"active_power_total": kw}}
        for second, kw in ((8, 0.59), (10, 0.59), (12, 0.59), (14, 0.0), (30, 0.0), (38, 0.0), (40, 1.07), (42, 0.6))
    ],
    site="site-gz-tianhe",
    emissions={
        "factors": [{"value": 0.4419, "unit": "kgCO2/kWh", "source": "MEE/NBS Announcement 2025 No.47"}],
        "periods": [
            {"start": "2026-11-20T21:00:00Z", "end": "2026-11-20T22:00:00Z", "energy_kwh": 4.5, "provisional": False,
             "emission_kg_co2": 1.99},
            {"start": "2026-11-20T22:00:00Z", "end": "2026-11-20T23:00:00Z", "energy_kwh": 3.4, "provisional": True,
             "emission_kg_co2": 1.51},
            {"start": "2026-11-20T23:00:00Z", "end": "2026-11-21T00:00:00Z", "energy_kwh": None, "provisional": True,
             "emission_kg_co2": None},
        ],
    },
)  # fmt: skip
OPEN_ALARM = {**(COMPLETE.alarm or {}), "ended_at": None, "closed_at": None}


def missing(facts: Facts) -> list[str]:
    return [step.name for step in story(facts, ENGLISH) if step.state == "missing"]


def test_complete_story_has_ids_times_and_delays() -> None:
    steps = {step.name: step for step in story(COMPLETE, ENGLISH)}
    assert missing(COMPLETE) == []
    raised = steps["alarm raised after the start delay"]
    assert (raised.ids, raised.seen_s, raised.expected_s, raised.state) == ("7e642c30", 4.0, 8.0, "ok")
    opened = steps["breaker opened, read back"]
    assert opened.ids == "off"
    assert opened.seen_s == pytest.approx(2.65)
    assert opened.detail == "breaker_state 0.0, meter-huangpu-aau-1 0 kW"
    fell, rose = steps["power of the load fell"], steps["power of the load is back"]
    assert (fell.seen_s, fell.detail) == (3.0, "0.590 kW / 0.000 kW")
    assert (rose.seen_s, rose.detail) == (4.0, "0.590 kW / 1.070 kW")
    assert steps["begin acknowledged by the SC"].ids == "44010600000003 #0000000001"
    assert (
        "0.4419 kgCO2/kWh (MEE/NBS Announcement 2025 No.47)" in steps["energy and carbon of the site per hour"].detail
    )
    assert steps["live values of the devices"].seen_s == 5.5


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"latest": COMPLETE.latest[:1]}, ["live values of the devices"], id="a silent device"),
        pytest.param(
            {"latest": [{"source_time": "2026-11-20T22:40:00Z"}] * 2}, ["live values of the devices"], id="stale values"
        ),
        pytest.param({"imports": ()}, ["48 hours of history imported"], id="no history"),
        pytest.param(
            {"alarm": OPEN_ALARM, "deliveries": COMPLETE.deliveries[1:]},
            ["voltage is back", "alarm ended after the end delay", "end acknowledged by the SC",
             "both are in the SC's own journal"],
            id="alarm still active",
        ),
        pytest.param(
            {"deliveries": COMPLETE.deliveries[:1]}, ["begin acknowledged by the SC"], id="begin not delivered"
        ),
        pytest.param(
            {"deliveries": [{**one, "state": "waiting"} for one in COMPLETE.deliveries]},
            ["begin acknowledged by the SC", "end acknowledged by the SC"],
            id="deliveries waiting",
        ),
        pytest.param(
            {"centre": COMPLETE.centre[:1]}, ["both are in the SC's own journal"], id="centre knows nothing of the end"
        ),
        pytest.param(
            {"centre": [{**one, "unit_id": "another"} for one in COMPLETE.centre]},
            ["both are in the SC's own journal"],
            id="another unit's serial",
        ),
        pytest.param(
            {"off_command": {**(COMPLETE.off_command or {}), "state": "unknown"}},
            ["breaker opened, read back"],
            id="opening not proven",
        ),
        pytest.param(
            {"occurrence": {**(COMPLETE.occurrence or {}), "came_on_at": None}},
            ["breaker closed again, read back"],
            id="closing not proven",
        ),
        pytest.param(
            {"power": [one for one in COMPLETE.power if one["points"]["active_power_total"]]},
            ["power of the load fell"],
            id="power never fell",
        ),
        pytest.param({"power": COMPLETE.power[:5]}, ["power of the load is back"], id="power never came back"),
        pytest.param(
            {"power": COMPLETE.power[3:]}, ["power of the load fell", "power of the load is back"], id="nothing before"
        ),
        pytest.param(
            {"emissions": {**(COMPLETE.emissions or {}), "periods": (COMPLETE.emissions or {})["periods"][:1]}},
            ["the running hour is marked provisional"],
            id="running hour not there",
        ),
    ],
)  # fmt: skip
def test_what_did_not_happen_is_missing(changed: dict[str, object], expected: list[str]) -> None:
    assert missing(replace(COMPLETE, **changed)) == expected  # type: ignore[arg-type]  # one field at a time


def test_before_anything_happened_every_step_is_missing_and_named() -> None:
    steps = story(Facts(now=COMPLETE.now), ENGLISH)
    assert {step.state for step in steps} == {"missing"}
    assert [step.name for step in steps] == [step.name for step in story(COMPLETE, ENGLISH)]


def test_slow_step_is_marked_and_not_missing() -> None:
    late = replace(COMPLETE, occurrence={**(COMPLETE.occurrence or {}), "went_off_at": "2026-11-20T22:46:20Z"})
    [slow] = [step for step in story(late, ENGLISH) if step.state == "slow"]
    assert (slow.name, slow.seen_s) == ("breaker opened, read back", 9.0)
    assert missing(late) == []


def test_story_in_chinese() -> None:
    names = [step.name for step in story(COMPLETE, Words(chinese=True))]
    assert "断路器分闸,回读确认" in names
    assert all(any("一" <= letter <= "鿿" for letter in name) for name in names)
