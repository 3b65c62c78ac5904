"""The centre's journal: every message, what was held against it, what was answered. One JSON object a line."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

import orjson

from libs.fieldsim.sc.catalogue import Finding

KEPT = 20_000
"""Entries kept in memory; the file keeps all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange."""

    sequence: int
    at: datetime
    """When it began, our clock."""
    direction: str
    """``in``: the unit called; ``out``: the centre did."""
    peer: str
    name: str
    """Of the request."""
    code: int | None
    unit_id: str | None
    result: str | None
    """Of the answer: ``1``, ``0``, or none where the message has no result or no answer came."""
    answered: bool
    """Whether the asker got a right answer in time; false under any ordered fault."""
    duration_ms: float
    facts: Mapping[str, object] = field(default_factory=dict)
    """What was in it: devices of a LOGIN, events of a SEND_ALARM, values of a GET_DATA_ACK."""
    findings: Sequence[Finding] = ()
    fault: str | None = None
    """The fault that was played."""
    message: str | None = None
    """The unit's message with its passwords masked, when something is held against it."""

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-ready facts."""
        return {
            "sequence": self.sequence,
            "at": self.at.isoformat(timespec="milliseconds"),
            "direction": self.direction,
            "peer": self.peer,
            "name": self.name,
            "code": self.code,
            "unit_id": self.unit_id,
            "result": self.result,
            "answered": self.answered,
            "duration_ms": round(self.duration_ms, 3),
            **self.facts,
            "findings": [finding.as_dict() for finding in self.findings],
            "fault": self.fault,
            **({} if self.message is None else {"message": self.message}),
        }


class Journal:
    """Entries in memory and in a file.

    Args:
        path: JSON lines, appended to; none: memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._kept: deque[dict[str, object]] = deque(maxlen=KEPT)
        self._next = 1
        self._file: TextIO | None = None

    def open(self) -> Iterator[dict[str, object]]:
        """Open the file and yield what earlier runs wrote, so that the centre can remember."""
        if self.path is None:
            return
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn by a crash; the next entry would grow onto it
                    entry = orjson.loads(line)
                    self._kept.append(entry)
                    self._next = entry["sequence"] + 1
                    yield entry
            self._mend()
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def next_sequence(self) -> int:
        """Return a number for a new entry."""
        number = self._next
        self._next += 1
        return number

    def write(self, entry: Entry) -> None:
        """Add an entry; it is in the file when this returns."""
        facts = entry.as_dict()
        self._kept.append(facts)
        if self._file is not None:
            self._file.write(orjson.dumps(facts).decode() + "\n")
            self._file.flush()

    def after(
        self, sequence: int = 0, *, name: str | None = None, findings_only: bool = False
    ) -> list[dict[str, object]]:
        """Return the entries younger than ``sequence``, oldest first."""
        return [
            entry
            for entry in self._kept
            if int(str(entry["sequence"])) > sequence
            and name in (None, entry["name"])
            and (entry["findings"] or not findings_only)
        ]

    def _mend(self) -> None:
        """Cut off a last line that a crash has torn."""
        assert self.path is not None  # noqa: S101 - open() has looked
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
