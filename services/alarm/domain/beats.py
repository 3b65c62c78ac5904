"""Heartbeats of ingest: until when every report is in, and since when somebody listens.

Each process of ingest beats into every partition, by the same way as its reports. So what a process accepted up to
its last heartbeat has been seen; of what it accepted since then nothing is known, it may be in its spool. Nobody is
called silent for a time that is not known about: not while a process keeps back, and not for a time in which it did
not listen at all. A process that was taken away for good would hold everything up for ever; so it counts only until
others have beaten for ``gone_us`` without it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from services.alarm.domain.engine import Changes, Engine, Reports
from services.alarm.domain.model import NEVER_US, SECOND_US
from services.alarm.domain.silence import FAR_US

KEEP_EVERY_US = 10 * SECOND_US
"""Heartbeats are stored when they are so much newer than what is stored. [µs]"""


FORGOTTEN_AFTER = 3
"""Times ``gone_us``: a process is remembered for so long, so that the end of its silence can be told."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What is known of a process of ingest in a partition."""

    beat_us: int
    """Its last heartbeat."""
    resumed_us: int | None
    """When it began to listen again after it had not for a while."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat of a process of ingest."""

    before: int
    """How many reports of the batch came before it."""
    partition: int
    instance: str
    at_us: int


Place = tuple[int, str]
"""Partition, and process of ingest."""


def judge(engine: Engine, beats: "Beats", reports: Reports, heartbeats: Iterable[Beat], changes: Changes) -> None:
    """Judge the reports of a batch; where ingest listens again in the midst of it, silence begins anew there.

    Raises:
        TypeError, ValueError: A point's value is not a number; nothing may be kept of the batch.
    """
    done = 0
    for beat in heartbeats:
        _note_listened(reports, beats, beat.before)
        waited_us, _ = beats.listened_us(beat.partition)
        if beats.note(beat.partition, beat.instance, beat.at_us):
            engine.judge(reports.part(done, beat.before), changes)
            engine.wait_out(beat.partition, min(waited_us, beat.at_us), changes)
            engine.resume(beat.partition, beat.at_us)
            done = beat.before
    _note_listened(reports, beats, len(reports))
    engine.judge(reports.part(done, len(reports)) if done else reports, changes)


def _note_listened(reports: Reports, beats: "Beats", before: int) -> None:
    """Note of the reports up to ``before`` until when, not included, somebody had listened when they came."""
    first = len(reports.listened_us)
    partitions = reports.partitions[first:before]
    until_us = {partition: beats.listened_us(partition) for partition in set(partitions)}
    for partition, received_us in zip(partitions, reports.received_us[first:before], strict=True):
        beat_us, deaf_from_us = until_us[partition]
        reports.listened_us.append(received_us if received_us <= deaf_from_us else beat_us + 1)


class Beats:
    """The processes of ingest, by partition."""

    def __init__(self, *, gone_us: int, deaf_us: int) -> None:
        """Begin with none known.

        Args:
            gone_us: A process counts until another has beaten for so long without it.
            deaf_us: One that did not beat for longer than this did not listen.
        """
        self._gone_us = gone_us
        self._deaf_us = deaf_us
        self._known: dict[int, dict[str, Pulse]] = {}
        self._stored: dict[Place, Pulse] = {}

    def load(self, pulses: Mapping[Place, Pulse]) -> None:
        """Take over what was stored."""
        for (partition, instance), pulse in pulses.items():
            self._known.setdefault(partition, {})[instance] = pulse
        self._stored |= pulses

    def drop(self, partitions: Collection[int]) -> None:
        """Forget partitions."""
        for partition in partitions:
            for instance in self._known.pop(partition, {}):
                self._stored.pop((partition, instance), None)

    def note(self, partition: int, instance: str, at_us: int) -> bool:
        """Take note of a heartbeat; return whether there is listening again that had not been for a while.

        The process itself may not have listened, or it is new and takes the place of one that does not any more.
        """
        known = self._known.setdefault(partition, {})
        before = known.get(instance)
        last_us = before.beat_us if before is not None else min(self._counting(partition), default=at_us)
        resumed = at_us > last_us + self._deaf_us
        since_us = None if before is None else before.resumed_us
        beat_us = at_us if before is None else max(at_us, before.beat_us)
        known[instance] = Pulse(beat_us, at_us if resumed else since_us)
        return resumed

    def waited_us(self, partition: int, clock_us: int) -> int:
        """Return until when all reports of a partition are in. [µs]

        Args:
            partition: Which.
            clock_us: Its clock; what comes after it is not known anyway. [µs]
        """
        return min([clock_us, *self._counting(partition)])

    def listened_us(self, partition: int) -> tuple[int, int]:
        """Return until when somebody surely listened to all devices of a partition. [µs]

        The oldest last heartbeat, and when it is so old that nobody listened since then.
        """
        beat_us = min(self._counting(partition), default=FAR_US)
        return beat_us, beat_us + self._deaf_us

    def newest_us(self) -> dict[str, tuple[int, bool]]:
        """Return the last heartbeat of each process, whichever the partition, and whether the process counts. [µs]"""
        newest: dict[str, tuple[int, bool]] = {}
        for partition, pulses in self._known.items():
            for instance, pulse in pulses.items():
                found = (pulse.beat_us, self._without_us(partition, pulse) <= self._gone_us)
                newest[instance] = max(found, newest.get(instance, found))
        return newest

    def resumed(self) -> Iterable[tuple[int, int]]:
        """Yield partitions and since when they are listened to again. [µs]"""
        for partition, pulses in self._known.items():
            for pulse in pulses.values():
                if pulse.resumed_us is not None:
                    yield partition, pulse.resumed_us

    def take_news(self) -> dict[Place, Pulse]:
        """Return what is worth storing."""
        news = {
            (partition, instance): pulse
            for partition, pulses in self._known.items()
            for instance, pulse in pulses.items()
            if self._is_news((partition, instance), pulse)
        }
        self._stored |= news
        return news

    def take_gone(self, partition: int) -> list[Place]:
        """Forget the processes that have not counted for a while, and return them."""
        known = self._known.get(partition, {})
        last_us = FORGOTTEN_AFTER * self._gone_us
        gone = [instance for instance, pulse in known.items() if self._without_us(partition, pulse) > last_us]
        for instance in gone:
            del known[instance]
            self._stored.pop((partition, instance), None)
        return [(partition, instance) for instance in gone]

    def _counting(self, partition: int) -> list[int]:
        """Return the last heartbeats of the processes that count."""
        pulses = self._known.get(partition, {}).values()
        return [pulse.beat_us for pulse in pulses if self._without_us(partition, pulse) <= self._gone_us]

    def _without_us(self, partition: int, pulse: Pulse) -> int:
        """Return for how long others have beaten without a process, at a stretch. [µs]"""
        return max(
            other.beat_us - max(pulse.beat_us, NEVER_US if other.resumed_us is None else other.resumed_us)
            for other in self._known[partition].values()
        )

    def _is_news(self, place: Place, pulse: Pulse) -> bool:
        stored = self._stored.get(place)
        if stored is None or stored.resumed_us != pulse.resumed_us:
            return True
        return pulse.beat_us >= stored.beat_us + KEEP_EVERY_US
