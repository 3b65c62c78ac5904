"""The demonstration's seeding: what a person would do in the first half hour, by the public API, in a second.

Told by the simulated field what there is (``field.json``), it imports the registry file, shortens an alarm rule for the
field's meters (the shipped table keeps its own delays), connects the simulated supervision centre with a unit per
station, starts the import of the past 48 hours, and puts a savings plan into force whose window opens soon. It is
repeatable: a second start changes only what differs, and plans the next window.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import PlatformError, Unavailable
from libs.common.settings import CommonSettings, load_common
from libs.suite.api import LocalApi, Refused
from libs.suite.words import Words, words_for

CONNECTION = "sc-demo"
"""The centre that the demonstration's sites name in ``sc_routing``."""
RULE = "0s16003001"
"""AC voltage too low (交流电压过低告警): what the field's sag provokes."""
DELAY_S = 3.0
"""Start and end delay of that rule for the field's meters. [s]"""
OPENS_IN_S = 25
"""From now to the opening of the breaker. [s]"""
OFF_FOR_S = 25
"""From the opening to the wake-up. [s]"""
PLAN = "Demonstration"
PATIENCE_S = 60.0
"""A service hears of what another was just told within this. [s]"""
RETRY_S = 0.2
FIELD_TIMEOUT_S = 60.0
HISTORY_FILE = "history.ndjson.gz"


class Seeder:
    """Does it step by step."""

    def __init__(
        self,
        api: LocalApi,
        field: Mapping[str, Any],
        words: Words,
        say: Callable[[str], None],
        clock: Callable[[], datetime] | None = None,
        *,
        off_for_s: int = OFF_FOR_S,
    ) -> None:
        self._off_for_s = off_for_s
        self._clock = clock or civil_now
        self._api = api
        self._field = field
        self._words = words
        self._say = say

    def run(self) -> None:
        """Seed all of it.

        Raises:
            PlatformError: A service refuses, or does not come round within ``PATIENCE_S``.
        """
        self.import_registry()
        self.shorten_alarm_rule()
        self.connect_centre()
        self.import_history()
        self.plan_shutdown()

    def import_registry(self) -> None:
        """Import the registry file of the field."""
        place = Path(self._field["registry_file"])
        content = place.read_bytes()
        done = self._api.upload("imports", content, media_type="application/yaml", kind="registry", file=place.name)
        created, changed = (sum(done["counts"][name].values()) for name in ("created", "changed"))
        self._say(
            self._words(
                f"registry imported: {created} entities new, {changed} changed",
                f"台账已导入:新增 {created} 项,变更 {changed} 项",
            )
        )

    def shorten_alarm_rule(self) -> None:
        """Let the voltage rule judge the field's meters after seconds."""
        body = {"start_delay_s": DELAY_S, "end_delay_s": DELAY_S, "reason": "demonstration"}
        meters = self.meters()
        for device in meters:
            self._until_known(self._api.put, f"alarm-rules/{RULE}/overrides/device/{device}", body)
        self._say(
            self._words(
                f"alarm rule {RULE} (voltage too low) judges {len(meters)} meters after {DELAY_S:.0f} s",
                f"告警规则 {RULE}(电压过低)对 {len(meters)} 块电表的判定延时为 {DELAY_S:.0f} 秒",
            )
        )

    def connect_centre(self) -> None:
        """Connect the simulated supervision centre, with a unit for each site that reports to it."""
        centre = {"name": "Simulated centre 模拟监控中心", "dialect": "T", "url": self._field["sc_url"]}
        self._api.put(f"sc-connections/{CONNECTION}", centre)
        codes = {region["id"]: region["code"] for region in self._entities("regions")}
        sites = [site for site in self._entities("sites") if CONNECTION in (site.get("sc_routing") or ())]
        points = 0
        for number, site in enumerate(sites, start=1):
            unit = f"{codes[site['region']]}{number:08d}"
            body = {"name": site.get("name_zh") or site["name"], "sites": [site["id"]]}
            self._until_known(self._api.put, f"sc-connections/{CONNECTION}/units/{unit}", body)
            mapping = self._until_known(self._propose, unit, set(self.meters(site["id"])))
            self._api.put(f"mappings/{CONNECTION}/{unit}", mapping)
            points += len(mapping["points"])
        self._say(
            self._words(
                f"supervision centre connected: {len(sites)} units, {points} points, {self._field['sc_url']}",
                f"监控中心已接入:{len(sites)} 个监控单元,{points} 个测点,{self._field['sc_url']}",
            )
        )

    def import_history(self) -> None:
        """Hand the past reports to the job worker, unless they were imported before."""
        if self._field.get("history_file") is None:
            return
        done = self._api.get("imports", limit=200)["items"]
        if any(one["file"] == HISTORY_FILE and one["state"] in ("queued", "running", "succeeded") for one in done):
            return
        packed = gzip.compress(Path(self._field["history_file"]).read_bytes(), compresslevel=1)
        self._api.upload("imports", packed, media_type="application/gzip", kind="readings", file=HISTORY_FILE)
        self._say(self._words("history of 48 hours: import started", "近 48 小时历史数据:已开始导入"))

    def plan_shutdown(self) -> None:
        """Draft and approve a plan that switches one radio unit off soon, and on again."""
        load = next(one for one in self._entities("loads") if one["kind"] == "aau" and one.get("breaker"))
        off_at = (self._clock() + timedelta(seconds=OPENS_IN_S)).replace(microsecond=0)
        on_at = off_at + timedelta(seconds=self._off_for_s)
        body = {
            "name": f"{PLAN} {off_at:%Y-%m-%d %H:%M:%S}",
            "load_ids": [load["id"]],
            "first_date": f"{off_at:%Y-%m-%d}",
            "last_date": f"{off_at:%Y-%m-%d}",
            "windows": [{"start": f"{off_at:%H:%M:%S}", "end": f"{on_at:%H:%M:%S}"}],
            "zone": CIVIL_ZONE.key,
        }
        plan = self._until_known(self._api.post, "plans", body)
        self._api.post(f"plans/{plan['plan_id']}/approve")
        self._say(
            self._words(
                f"savings plan in force: {load['name']} off at {off_at:%H:%M:%S}, on again at {on_at:%H:%M:%S} (UTC+8)",
                f"节能策略已生效:{load.get('name_zh') or load['name']} {off_at:%H:%M:%S} 关断,{on_at:%H:%M:%S} 唤醒",
            )
        )

    def meters(self, site: str | None = None) -> list[str]:
        """Return the ids of the meters of three phases, of one site or all."""
        return [one["id"] for one in self._entities("devices", site=site) if one["kind"] == "meter_3p"]

    def _propose(self, unit: str, meters: set[str]) -> Any:
        """Return a mapping proposed for a unit.

        Raises:
            Refused: Export has not heard of all its meters yet.
        """
        mapping = self._api.post(f"mappings/{CONNECTION}/{unit}/proposal", {})["mapping"]
        missing = meters - {point["device_id"] for point in mapping["points"]}
        if missing:
            raise Refused(f"no mapping proposed for {', '.join(sorted(missing))}", status=404)
        return mapping

    def _entities(self, path: str, **params: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._api.get(path, limit=1000, **params)["items"]
        return items

    def _until_known(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Repeat a call while it is refused: a service may not have heard of what was just imported."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call(*arguments)
            except (Refused, Unavailable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)


def civil_now() -> datetime:
    """Return the time of day at the sites."""
    return datetime.now(CIVIL_ZONE)


def field_description(settings: CommonSettings) -> Mapping[str, Any]:
    """Return what the simulated field says of itself, once everything of it listens.

    Raises:
        PlatformError: It does not come up.
    """
    place = settings.data_dir.absolute() / "field" / "field.json"
    deadline = time.monotonic() + FIELD_TIMEOUT_S
    while not place.exists():
        if time.monotonic() > deadline:
            raise PlatformError(
                f"the simulated field is not up: {place} is missing", message_zh=f"模拟现场未启动:缺少 {place}"
            )
        time.sleep(RETRY_S)
    description: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return description


def main() -> int:
    """Run as a program; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lang")
    words = words_for(parser.parse_args().lang)
    try:
        settings = load_common()
        with LocalApi(settings) as api:
            Seeder(api, field_description(settings), words, _say).run()
    except PlatformError as exc:
        _say(f"error: {words(exc.message, exc.message_zh or exc.message)}")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
