"""A centre that is away for an hour while thousands of alarms begin and end, and export that is killed meanwhile.

The hour passes by libfaketime on export's host and by an offset on the centre's; monotonic clocks go on as they are.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.bus import envelope, topics
from libs.common.bus.pglog import PgLogBus
from libs.common.clock import SystemClock
from libs.common.contracts.alarm import AlarmEvent
from libs.common.settings import BusSettings, DatabaseSettings
from libs.fieldsim.sc.faults import parse_order
from libs.fieldsim.sc.report import Report, Verdict
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import TOWER
from tests.conftest import missing
from tests.integration.export.conftest import FSU, begin, end, until
from tests.integration.export.export_process import process

pytestmark = [pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(1800)]

DEVICES = 50
SIGNALS = {"0s16001001": "0416001001", "0s16003001": "0416003001"}
ROUNDS = 50
"""Each signal of each device begins and ends so often: 5,000 alarms with their ends."""
STEP = timedelta(minutes=50) / ROUNDS
LIMIT_S = 600
"""Until what is awaited must be there. [s]"""
MESSAGE = 100
PUBLISHED_AT_ONCE = 2000
HALF_AN_HOUR = timedelta(minutes=30)


class Shifted(SystemClock):
    """The host's clock, set forward by the test."""

    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


def faketime() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        missing("libfaketime is not installed")
    return str(found[0])


def mapping() -> dict[str, object]:
    devices = [f"{44010641600000 + n}" for n in range(1, DEVICES + 1)]
    points = [
        {"device_id": f"m-{n}", "kind": "signal", "source": signal, "sc_device_id": device, "point_id": point,
         "type": "DI", "name": "停电"}
        for n, device in enumerate(devices, start=1)
        for signal, point in SIGNALS.items()
    ]  # fmt: skip
    return {"devices": [{"device_id": device, "name": "智能电表"} for device in devices], "points": points}


def events() -> list[AlarmEvent]:
    """Return what happened in the hour before now, oldest first; per point one alarm after the other."""
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=59)
    made = []
    for round_ in range(ROUNDS):
        began, ended = first + round_ * STEP, first + round_ * STEP + STEP / 2
        facts = [(f"a-{round_}-{n}-{signal}", signal, f"m-{n}") for n in range(1, DEVICES + 1) for signal in SIGNALS]
        made += [begin(alarm, signal, device_id=device, began_at=began) for alarm, signal, device in facts]
        made += [
            end(alarm, signal, device_id=device, began_at=began, ended_at=ended) for alarm, signal, device in facts
        ]
    return made


async def test_an_hour_away_and_kills_lose_no_alarm_and_tell_none_twice(postgres_url: str, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    host = {
        "LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "WATTRING_EXPORT__LEASE_S": "60",
    }  # fmt: skip
    clock = Shifted()

    def pass_half_an_hour() -> None:
        clock.ahead += HALF_AN_HOUR
        told = offset.with_suffix(".new")
        told.write_text(f"+{clock.ahead.total_seconds():.0f}")
        told.rename(offset)  # whole: who reads half of it takes the host's own time

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    bus = PgLogBus(settings, BusSettings(), SystemClock())
    centre = SupervisionCentre(clock=clock, policy=Policy(strict=True, time_check_at_login=False))
    await bus.start()
    await centre.start()
    database = await asyncpg.connect(postgres_url)
    try:
        await bus.ensure_topics(topics.specs(BusSettings()))

        async def publish(chosen: list[AlarmEvent]) -> None:
            for at in range(0, len(chosen), PUBLISHED_AT_ONCE):
                messages = [
                    envelope.message(topics.ALARM_EVENTS, each.site_id, each, source="test", time=each.began_at)
                    for each in chosen[at : at + PUBLISHED_AT_ONCE]
                ]
                await bus.publish(messages, timeout_s=60)

        async def states() -> Counter[str]:
            rows = await database.fetch("select state, count(*) as number from export.deliveries group by state")
            return Counter({row["state"]: row["number"] for row in rows})

        async with process(postgres_url, tmp_path, clock=clock, environ=host) as export:
            options = {"batch_size": MESSAGE, "timeout_s": 60, "retry_first_s": 0.5, "retry_cap_s": 1.0}
            await export.call(
                "POST", "/api/v1/sc-connections", {"id": "gd", "name": "SC", "url": centre.url, "options": options}
            )
            await export.call("PUT", f"/api/v1/sc-connections/gd/units/{FSU}", {"name": "一号站", "sites": ["s-1"]})
            assert await export.call("PUT", f"/api/v1/mappings/gd/{FSU}", mapping()) is not None

            async def registered() -> bool:
                return FSU in centre.centre.units

            await until(registered)
            await centre.stop()

            everything = events()
            half = len(everything) // 2
            await publish(everything[:half])
            pass_half_an_hour()
            await export.kill()  # wherever it is between the bus and its queue
            await publish(everything[half:])
            await export.start()
            pass_half_an_hour()

            async def all_queued() -> bool:
                return sum((await states()).values()) == len(everything)

            await until(all_queued, limit_s=LIMIT_S)
            assert (await states())["delivered"] == 0

            # The centre is back. It takes a message and is not heard to say so, since export dies just then.
            centre.faults.place(parse_order("no_answer:command=SEND_ALARM,delay_s=60"))
            await centre.start()

            async def taken() -> bool:
                return any(entry["fault"] for entry in centre.journal.after())

            await until(taken)
            await export.kill()
            await export.start()

            async def all_delivered() -> bool:
                return (await states())["delivered"] == len(everything)

            await until(all_delivered, limit_s=LIMIT_S)
    finally:
        await database.close()
        await centre.stop()
        await bus.stop()

    heard = centre.journal.after()
    acknowledged = [
        (alarm["serial"], alarm["flag"])
        for entry in heard
        if entry["name"] == "SEND_ALARM" and entry["answered"] and entry["result"] == "1"
        for alarm in entry["alarms"]  # type: ignore[attr-defined]
    ]
    twice = [each for each, times in Counter(acknowledged).items() if times > 1]
    assert twice == [], "each is acknowledged once"
    assert len(acknowledged) == len(everything) == 2 * DEVICES * len(SIGNALS) * ROUNDS
    # In order per point, ENDs after BEGINs, numbers used once, no LOGIN too soon: the centre's own rules.
    report = Report(TOWER, FSU, None, clock.now(), clock.now(), [], heard)
    assert report.verdict is Verdict.CONFORMS, "\n".join(report.lines())
    assert [each.as_dict() for each in report.seen] == []
    assert centre.centre.open_alarms() == []
    assert len([entry for entry in heard if entry["name"] == "LOGIN"]) <= 2
