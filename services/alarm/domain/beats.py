"""Heartbeats of ingest: until when every report is in, and since when somebody listens.

Each process of ingest beats into every partition, by the same way as its reports. So what a process accepted up to
its last heartbeat has been seen; of what it accepted since then nothing is known, it may be in its spool. Nobody is
called silent for a time that is not known about: not while a process keeps back, and not for a time in which it did
not listen at all. A process that was taken away for good would hold everything up for ever; so it counts for
``gone_us`` only.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from services.alarm.domain.engine import Changes, Engine, Reports
from services.alarm.domain.model import SECOND_US
from services.alarm.domain.silence import FAR_US

KEEP_EVERY_US = 10 * SECOND_US
"""Heartbeats are stored when they are so much newer than what is stored. [µs]"""


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
        waited_us = beats.waited_us(beat.partition, beat.at_us)
        if beats.note(beat.partition, beat.instance, beat.at_us):
            engine.judge(reports.part(done, beat.before), changes)
            engine.wait_out(beat.partition, waited_us, changes)
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
            gone_us: A process counts for so long after its last heartbeat, on the partition's clock.
            deaf_us: One that did not beat for longer than this did not listen.
        """
        self._gone_us = gone_us
        self._deaf_us = deaf_us
        self._known: dict[Place, Pulse] = {}
        self._stored: dict[Place, Pulse] = {}

    def load(self, pulses: Mapping[Place, Pulse]) -> None:
        """Take over what was stored."""
        self._known |= pulses
        self._stored |= pulses

    def drop(self, partitions: Collection[int]) -> None:
        """Forget partitions."""
        for place in [place for place in self._known if place[0] in partitions]:
            del self._known[place]
            self._stored.pop(place, None)

    def note(self, partition: int, instance: str, at_us: int) -> bool:
        """Take note of a heartbeat; return whether the process listens again after it had not for a while."""
        place = (partition, instance)
        before = self._known.get(place)
        if before is None:
            self._known[place] = Pulse(at_us, None)
            return False
        resumed = at_us > before.beat_us + self._deaf_us
        self._known[place] = Pulse(max(at_us, before.beat_us), at_us if resumed else before.resumed_us)
        return resumed

    def waited_us(self, partition: int, clock_us: int) -> int:
        """Return until when all reports of a partition are in. [µs]

        Args:
            partition: Which.
            clock_us: Its clock; what comes after it is not known anyway. [µs]
        """
        return min([clock_us, *(pulse.beat_us for _, pulse in self._of(partition))])

    def listened_us(self, partition: int) -> tuple[int, int]:
        """Return until when somebody surely listened to all devices of a partition. [µs]

        The oldest last heartbeat, and when it is so old that nobody listened since then.
        """
        beat_us = min((pulse.beat_us for _, pulse in self._of(partition)), default=FAR_US)
        return beat_us, beat_us + self._deaf_us

    def newest_us(self) -> dict[str, int]:
        """Return the last heartbeat of each process, whichever the partition. [µs]"""
        newest: dict[str, int] = {}
        for (_, instance), pulse in self._known.items():
            newest[instance] = max(pulse.beat_us, newest.get(instance, pulse.beat_us))
        return newest

    def resumed(self) -> Iterable[tuple[int, int]]:
        """Yield partitions and since when they are listened to again. [µs]"""
        for (partition, _), pulse in self._known.items():
            if pulse.resumed_us is not None:
                yield partition, pulse.resumed_us

    def take_news(self) -> dict[Place, Pulse]:
        """Return what is worth storing."""
        news = {place: pulse for place, pulse in self._known.items() if self._is_news(place, pulse)}
        self._stored |= news
        return news

    def take_gone(self, partition: int, clock_us: int) -> list[Place]:
        """Forget the processes that do not count any more, and return them."""
        gone = [place for place, pulse in self._of(partition) if pulse.beat_us < clock_us - self._gone_us]
        for place in gone:
            del self._known[place]
            self._stored.pop(place, None)
        return gone

    def _is_news(self, place: Place, pulse: Pulse) -> bool:
        stored = self._stored.get(place)
        if stored is None or stored.resumed_us != pulse.resumed_us:
            return True
        return pulse.beat_us >= stored.beat_us + KEEP_EVERY_US

    def _of(self, partition: int) -> list[tuple[Place, Pulse]]:
        return [(place, pulse) for place, pulse in self._known.items() if place[0] == partition]
