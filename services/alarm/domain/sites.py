"""Second stage, a site at a time: which active alarms something else explains, so that nobody need be told.

An alarm that is explained exists like any other; it carries ``inhibited_by``. What explains an alarm, the first
that holds:

* a planned shutdown: control has switched its load off (``occurrence:<id>``, ``command:<id>``);
* a maintenance window in which it was raised (``window:<id>``);
* a shelf that a person has put it on (``shelf:<id>``);
* another alarm that takes away what it needs, supply or link (``alarm:<id>``): a site without mains, a silent gateway;
* the storm of its site (``alarm:<id>``), unless it is of a level that is always told.

All of it is decided anew whenever something at the site changes or a time is reached, on the partition's clock, so
that the same messages give the same answer, however they are cut into batches. An explanation that has gone is
followed by some time to settle: what disappears with its cause a moment later is not told after all.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.alarm.domain.model import SECOND_US, Need
from services.alarm.domain.shutdowns import Shutdown, Shutdowns

ALARM = "alarm:"
WINDOW = "window:"
SHELF = "shelf:"
LINE = "line:"
"""Prefix of a communication line among what carries a device."""


@dataclass(frozen=True, slots=True)
class SiteLimits:
    """What the second stage tolerates."""

    settle_us: int = 60 * SECOND_US
    """After the end of what explained an alarm, it has so long to end as well. [µs]"""
    storm_count: int = 30
    """So many unexplained alarms of one site within ``storm_within_us`` are a storm."""
    storm_within_us: int = 60 * SECOND_US
    storm_quiet_us: int = 300 * SECOND_US
    """A storm is over when fewer than half as many have come within this time. [µs]"""
    storm_told_level: int = 1
    """Alarms of this level and worse are told even in a storm."""


@dataclass(frozen=True, slots=True)
class Window:
    """Maintenance: what is raised in it is not told while it lasts. Half-open."""

    window_id: str
    site_id: str
    device_ids: frozenset[str] | None
    """None: the whole site."""
    from_us: int
    to_us: int

    def covers(self, device_id: str | None) -> bool:
        """Return whether the device, or the site as a whole, lies within."""
        return self.device_ids is None or device_id in self.device_ids


@dataclass(frozen=True, slots=True)
class Shelf:
    """A person has put a rule of a device, or a finding of a site, aside for some time."""

    shelf_id: str
    site_id: str
    device_id: str | None
    rule_key: str
    until_us: int


@dataclass(frozen=True, slots=True)
class Standing:
    """An active alarm as the second stage sees it."""

    alarm_id: str
    partition: int
    site_id: str
    device_id: str | None
    rule_key: str
    """The rule; of a finding of the platform its signal."""
    level: int
    began_us: int
    raised_us: int
    """On the partition's clock."""
    needs: frozenset[Need] = frozenset()
    takes: Need | None = None
    """What its device lacks, and with it everything behind the device."""
    subject: str | None = None
    """What a finding is about: the line that is down."""
    inhibited_by: str | None = None
    finding: bool = False
    """Of the platform itself, not of a rule."""


@dataclass(frozen=True, slots=True)
class Storm:
    """A site that raises more than anybody can read."""

    alarm_id: str
    since_us: int


class Topology(Protocol):
    """Who lives on whom, out of the registry."""

    def suppliers(self, device_id: str) -> Sequence[frozenset[str]]:
        """Return groups of devices: the device has no supply when all of one group have none."""

    def carriers(self, device_id: str) -> frozenset[str]:
        """Return what its data come through: gateways by id, its line as ``line:<id>``."""


@dataclass(slots=True)
class _Site:
    partition: int
    alarms: dict[str, Standing]
    fallen: dict[str, tuple[Standing, int]]
    """Alarms that took something away, and when they ended; while others settle."""
    begins: deque[int]
    """When unexplained alarms were raised, as long as it may be a storm. [µs]"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the second stage thinks of an alarm now, where that is news."""

    standing: Standing
    inhibited_by: str | None


@dataclass(frozen=True, slots=True)
class StormNews:
    """A storm begins or is over; the caller makes an alarm of it."""

    site_id: str
    partition: int
    at_us: int
    begins: bool
    count: int
    """Alarms that began within the window; at its end those that it has explained and that are still active."""


class Sites:
    """Active alarms of the partitions that this process holds, and what may explain them."""

    def __init__(self, topology: Topology, limits: SiteLimits | None = None) -> None:
        """Start with nothing known."""
        self._topology = topology
        self._limits = limits or SiteLimits()
        self.shutdowns = Shutdowns()
        self._sites: dict[str, _Site] = {}
        self._site_of: dict[str, str] = {}
        self._windows: dict[str, dict[str, Window]] = {}
        self._shelves: dict[str, dict[str, Shelf]] = {}
        self._storms: dict[str, Storm] = {}
        self._stormy: dict[int, set[str]] = {}
        """Sites whose latest begins are counted."""
        self._grace: dict[str, int | None] = {}
        """Alarms that another explains, whose end a process before this one may have seen; and until when it stands."""
        self._touched: dict[int, set[str]] = {}
        self._looks: dict[int, list[tuple[int, str]]] = {}

    # What is known.

    def find(self, alarm_id: str) -> Standing | None:
        """Return an active alarm."""
        site = self._sites.get(self._site_of.get(alarm_id, ""))
        return None if site is None else site.alarms.get(alarm_id)

    def at(self, site_id: str) -> Iterator[Standing]:
        """Yield the active alarms of a site."""
        site = self._sites.get(site_id)
        yield from () if site is None else site.alarms.values()

    def findings(self) -> Iterator[Standing]:
        """Yield the active alarms that no rule over readings has raised."""
        for site in self._sites.values():
            yield from (standing for standing in site.alarms.values() if standing.finding)

    def storm(self, site_id: str) -> Storm | None:
        """Return the storm of a site, None when there is none."""
        return self._storms.get(site_id)

    def load(
        self,
        standings: Iterable[Standing],
        windows: Iterable[Window],
        shelves: Iterable[Shelf],
        shutdowns: Iterable[Shutdown],
    ) -> None:
        """Take over stored state; all of it is looked at with the next batch."""
        self.shutdowns.load(shutdowns)
        for window in windows:
            self.put_window(window)
        for shelf in shelves:
            self.put_shelf(shelf)
        for standing in standings:
            self._keep(standing)
            if standing.inhibited_by is not None and standing.inhibited_by.startswith(ALARM):
                self._grace[standing.alarm_id] = None
            if standing.site_id in self._storms:
                self._stormy.setdefault(standing.partition, set()).add(standing.site_id)

    def put_storm(self, site_id: str, storm: Storm | None) -> None:
        """Note that a storm has an alarm, or None that it is over."""
        if storm is None:
            self._storms.pop(site_id, None)
        else:
            self._storms[site_id] = storm
            if site_id in self._sites:
                self._stormy.setdefault(self._sites[site_id].partition, set()).add(site_id)
        self.touch(site_id)

    def drop(self, partitions: Collection[int]) -> None:
        """Forget these partitions."""
        self.shutdowns.drop(partitions)
        for partition in partitions:
            for held in (self._looks, self._touched, self._stormy):
                held.pop(partition, None)
        for site_id in [site_id for site_id, site in self._sites.items() if site.partition in partitions]:
            for alarm_id in self._sites.pop(site_id).alarms:
                del self._site_of[alarm_id]
                self._grace.pop(alarm_id, None)
            self._storms.pop(site_id, None)

    # What happens.

    def rise(self, standing: Standing) -> Standing:
        """Take note of a new alarm; return it with what explains it."""
        now_us = standing.raised_us
        site = self._site(standing)
        reasons = self._reasons(standing, site, now_us)
        standing = replace(standing, inhibited_by=next(iter(reasons), None))
        self._keep(standing)
        if standing.inhibited_by is not None:
            self._look(standing, reasons[standing.inhibited_by])
        if standing.inhibited_by is None or standing.inhibited_by == self._storm_reason(standing.site_id):
            site.begins.append(now_us)
            self._stormy.setdefault(standing.partition, set()).add(standing.site_id)
        return standing

    def fall(self, alarm_id: str, at_us: int) -> None:
        """Take note that an alarm is over.

        Args:
            alarm_id: Which.
            at_us: On the partition's clock. [µs]
        """
        site_id = self._site_of.pop(alarm_id, None)
        if site_id is None:
            return
        site = self._sites[site_id]
        standing = site.alarms.pop(alarm_id)
        self._grace.pop(alarm_id, None)
        if standing.takes is not None:
            site.fallen[alarm_id] = (standing, at_us)
            self._look(standing, at_us + self._limits.settle_us)
        self.touch(site_id)

    def change(self, alarm_id: str, *, level: int | None = None, inhibited_by: str | None = None) -> None:
        """Take note of another level, or of what was told about the explanation."""
        standing = self.find(alarm_id)
        if standing is None:
            return
        if level is not None:
            standing = replace(standing, level=level)
        self._keep(replace(standing, inhibited_by=inhibited_by))

    def touch(self, site_id: str) -> None:
        """Look at a site again with the next batch."""
        site = self._sites.get(site_id)
        if site is not None:
            self._touched.setdefault(site.partition, set()).add(site_id)

    def put_window(self, window: Window) -> None:
        """Take note of a window, or of other times of it."""
        self._windows.setdefault(window.site_id, {})[window.window_id] = window
        self.touch(window.site_id)

    def remove_window(self, window_id: str) -> None:
        """Take note that a window was called off."""
        for site_id, windows in self._windows.items():
            if windows.pop(window_id, None) is not None:
                self.touch(site_id)

    def put_shelf(self, shelf: Shelf) -> None:
        """Take note that something was shelved."""
        self._shelves.setdefault(shelf.site_id, {})[shelf.shelf_id] = shelf
        self.touch(shelf.site_id)

    def remove_shelf(self, site_id: str, shelf_id: str) -> None:
        """Take note that something was taken off its shelf."""
        self._shelves.get(site_id, {}).pop(shelf_id, None)
        self.touch(site_id)

    # What follows.

    def settle(self, partition: int, clock_us: int) -> Iterator[Verdict]:
        """Yield what is news about the alarms of sites where something happened or a time was reached.

        An explanation that is gone is news only once; whoever cannot tell it yet (the alarm is about to end) calls
        ``touch`` when it can.
        """
        looks = self._looks.setdefault(partition, [])
        touched = self._touched.pop(partition, set())
        while looks and looks[0][0] <= clock_us:
            touched.add(heapq.heappop(looks)[1])
        for site_id in sorted(touched):
            site = self._sites.get(site_id)
            if site is None:
                continue
            self._forget_fallen(site, clock_us)
            for standing in list(site.alarms.values()):
                reasons = self._reasons(standing, site, clock_us)
                kept = standing.inhibited_by if standing.inhibited_by in reasons else next(iter(reasons), None)
                if kept is not None:
                    self._look(standing, reasons[kept])
                if kept != standing.inhibited_by:
                    yield Verdict(standing, kept)
            if not site.alarms and not site.fallen and site_id not in self._stormy.get(partition, ()):
                del self._sites[site_id]

    def storms(self, partition: int, clock_us: int) -> list[StormNews]:
        """Return the storms that begin or are over."""
        limits = self._limits
        news: list[StormNews] = []
        for site_id in sorted(self._stormy.get(partition, ())):
            site, storm = self._sites[site_id], self._storms.get(site_id)
            keep_us = limits.storm_within_us if storm is None else limits.storm_quiet_us
            while site.begins and site.begins[0] <= clock_us - keep_us:
                site.begins.popleft()
            count = len(site.begins)
            if storm is None and count >= limits.storm_count:
                news.append(StormNews(site_id, partition, clock_us, begins=True, count=count))
            elif storm is None and not count:
                self._stormy[partition].discard(site_id)
            elif storm is not None and 2 * count < limits.storm_count and clock_us >= storm.since_us + keep_us:
                explained = sum(one.inhibited_by == ALARM + storm.alarm_id for one in self.at(site_id))
                news.append(StormNews(site_id, partition, clock_us, begins=False, count=explained))
        return news

    # Inside.

    def _reasons(self, standing: Standing, site: _Site, now_us: int) -> Mapping[str, int | None]:
        """Return all that explains an alarm now, in order, and until when each does at the latest. [µs]"""
        reasons: dict[str, int | None] = {}
        for reason, until_us in self._explanations(standing, site, now_us):
            reasons.setdefault(reason, until_us)
        return reasons

    def _explanations(self, standing: Standing, site: _Site, now_us: int) -> Iterator[tuple[str, int | None]]:
        settle_us = self._limits.settle_us
        if standing.alarm_id in self._grace and standing.inhibited_by is not None:
            grace_us = self._grace[standing.alarm_id]
            if grace_us is None:
                grace_us = self._grace[standing.alarm_id] = now_us + settle_us
            if now_us < grace_us:
                yield standing.inhibited_by, grace_us
            else:
                del self._grace[standing.alarm_id]
        device_id = standing.device_id
        if Need.LOAD in standing.needs and device_id is not None:
            shutdown = self.shutdowns.of(device_id)
            if shutdown is not None and shutdown.explains(standing.began_us):
                lasts_us = None if shutdown.end_us is None else shutdown.end_us + settle_us
                if lasts_us is None or now_us < lasts_us:
                    yield shutdown.reference, lasts_us
        for window in self._windows.get(standing.site_id, {}).values():
            if window.from_us <= standing.raised_us < window.to_us and now_us < window.to_us:
                if window.covers(device_id):
                    yield WINDOW + window.window_id, window.to_us
        for shelf in self._shelves.get(standing.site_id, {}).values():
            if (shelf.device_id, shelf.rule_key) == (device_id, standing.rule_key) and now_us < shelf.until_us:
                yield SHELF + shelf.shelf_id, shelf.until_us
        for need in (Need.SUPPLY, Need.LINK):
            if need in standing.needs and device_id is not None:
                yield from self._parents(need, standing, site, now_us)
        storm = self._storms.get(standing.site_id)
        if storm is not None and storm.alarm_id != standing.alarm_id and storm.since_us < standing.raised_us:
            if standing.level > self._limits.storm_told_level:
                yield ALARM + storm.alarm_id, None

    def _parents(self, need: Need, standing: Standing, site: _Site, now_us: int) -> Iterator[tuple[str, int | None]]:
        """Yield the alarms that say why the device lacks something."""
        lacking: dict[str, tuple[str, int | None]] = {}
        for alarm_id, (fallen, at_us) in site.fallen.items():
            settled_us = at_us + self._limits.settle_us
            if fallen.takes is need and now_us < settled_us:
                lacking[_place(fallen)] = (alarm_id, settled_us)
        for other in site.alarms.values():
            if other.takes is need and other.alarm_id != standing.alarm_id:
                lacking[_place(other)] = (other.alarm_id, None)
        if not lacking or standing.device_id is None:
            return
        if need is Need.SUPPLY:
            groups = self._topology.suppliers(standing.device_id)
        else:
            groups = [frozenset({carrier}) for carrier in self._topology.carriers(standing.device_id)]
        for group in groups:
            if group and lacking.keys() >= group:
                for place in sorted(group):
                    alarm_id, until_us = lacking[place]
                    yield ALARM + alarm_id, until_us

    def _storm_reason(self, site_id: str) -> str | None:
        storm = self._storms.get(site_id)
        return None if storm is None else ALARM + storm.alarm_id

    def _site(self, standing: Standing) -> _Site:
        site = self._sites.get(standing.site_id)
        if site is None:
            site = self._sites[standing.site_id] = _Site(standing.partition, {}, {}, deque())
        return site

    def _keep(self, standing: Standing) -> None:
        self._site(standing).alarms[standing.alarm_id] = standing
        self._site_of[standing.alarm_id] = standing.site_id
        self.touch(standing.site_id)

    def _look(self, standing: Standing, at_us: int | None) -> None:
        if at_us is not None:
            heapq.heappush(self._looks.setdefault(standing.partition, []), (at_us, standing.site_id))

    def _forget_fallen(self, site: _Site, clock_us: int) -> None:
        for alarm_id, (_, at_us) in list(site.fallen.items()):
            if at_us + self._limits.settle_us <= clock_us:
                del site.fallen[alarm_id]


def _place(standing: Standing) -> str:
    """Return where something is lacking: a device, or the line that a finding is about."""
    return standing.device_id or f"{LINE}{standing.subject}"
