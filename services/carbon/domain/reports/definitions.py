"""What is to be reported again and again: of what, in which files and languages, and when by itself."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from libs.common.errors import InvalidInput
from libs.common.recurrence import Schedule
from services.carbon.domain.reports import words
from services.carbon.domain.reports.content import Language, ReportKind, Text
from services.carbon.domain.reports.inventory import Stated
from services.carbon.domain.reports.periods import LENGTHS, Length, Period, last_over, parse_period

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
"""Of a definition: it is part of addresses and file names."""
STATED_MAX = 4_000
"""Characters of one statement that people enter."""
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_STATEMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


class FileFormat(StrEnum):
    """What a finished report is rendered as; its content as JSON is always there."""

    EXCEL = "xlsx"
    PDF = "pdf"

    @property
    def media_type(self) -> str:
        """As registered with IANA."""
        return {
            "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "pdf": "application/pdf",
        }[self.value]


class SubjectKind(StrEnum):
    """What a report can be of."""

    SITE = "site"
    CIRCUIT = "circuit"
    ROOM = "room"
    REGION = "region"
    ORGANISATION = "organisation"
    PLAN = "plan"
    INVENTORY = "inventory"
    CONTRACT = "contract"


_NODES = frozenset(
    {SubjectKind.SITE, SubjectKind.CIRCUIT, SubjectKind.ROOM, SubjectKind.REGION, SubjectKind.ORGANISATION}
)
SUBJECTS: dict[ReportKind, frozenset[SubjectKind]] = {
    ReportKind.ENERGY_DAILY: _NODES,
    ReportKind.ENERGY_WEEKLY: _NODES,
    ReportKind.ENERGY_MONTHLY: _NODES,
    ReportKind.ENERGY_YEARLY: _NODES,
    ReportKind.SAVINGS: frozenset({SubjectKind.SITE, SubjectKind.PLAN}),
    ReportKind.INVENTORY: frozenset({SubjectKind.INVENTORY}),
    ReportKind.CONTRACT_STATEMENT: frozenset({SubjectKind.CONTRACT}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One version of a definition."""

    definition_id: str
    version: int
    kind: ReportKind
    name: Text
    subject_kind: SubjectKind
    subject_id: str
    languages: tuple[Language, ...] = (Language.CHINESE,)
    formats: tuple[FileFormat, ...] = (FileFormat.EXCEL, FileFormat.PDF)
    schedule: Schedule | None = None
    stated: Mapping[Stated, str] = field(default_factory=dict)
    """For an inventory: what no computation knows."""

    def __post_init__(self) -> None:
        """Refuse what nothing can be reported by.

        Raises:
            InvalidInput: Its id, its subject or its schedule does not go with its kind, or it is in no language.
        """
        if not ID.fullmatch(self.definition_id):
            raise _wrong("definition_id", "lower-case letters, digits and hyphens, at most 48", self.definition_id)
        if self.subject_kind not in SUBJECTS[self.kind]:
            expected = ", ".join(sorted(SUBJECTS[self.kind]))
            raise _wrong("subject_kind", f"for {self.kind} one of {expected}", self.subject_kind)
        if not self.languages or len(set(self.languages)) < len(self.languages):
            raise _wrong("languages", "at least one, each once", ", ".join(self.languages))
        if len(set(self.formats)) < len(self.formats):
            raise _wrong("formats", "each once", ", ".join(self.formats))
        if self.schedule is not None and self.kind not in LENGTHS:
            raise _wrong("schedule", f"none: a report of kind {self.kind} is of what was published or signed", "one")
        if self.stated and self.kind is not ReportKind.INVENTORY:
            raise _wrong("stated", f"nothing for {self.kind}", ", ".join(self.stated))
        for key, text in self.stated.items():
            if not text.strip() or len(text) > STATED_MAX:
                raise _wrong(f"stated.{key}", f"a text of at most {STATED_MAX} characters", f"{len(text)} characters")

    @property
    def length(self) -> Length | None:
        """Length of its periods; None for what is not of a civil period."""
        return LENGTHS.get(self.kind)

    @property
    def title(self) -> Text:
        """What its reports are called."""
        return words.TITLES[self.kind]

    def period(self, edition: str) -> Period:
        """Return the civil period of an edition.

        Raises:
            InvalidInput: There is none of that name, or the kind has none.
        """
        if self.length is None:
            raise _wrong("edition", f"that of a report of a period, not of {self.kind}", edition)
        return parse_period(self.length, edition)

    def inventory_version(self, edition: str) -> int:
        """Return the version of the inventory that an edition is of: ``v3`` is 3.

        Raises:
            InvalidInput: It is no version.
        """
        found = _VERSION.fullmatch(edition)
        if found is None:
            raise _wrong("edition", "a version of the inventory such as v3", edition)
        return int(found[1])

    def check_edition(self, edition: str, now: datetime) -> None:
        """Refuse an edition that cannot be made, or not yet.

        Raises:
            InvalidInput: It names no period, version or statement, or a period that is not over.
        """
        if self.length is not None:
            period = self.period(edition)
            if period.end_at > now:
                raise InvalidInput(
                    f"edition: expected a period that is over, found {edition}, which ends {period.end_at.isoformat()}",
                    message_zh=f"edition:周期须已结束,{edition} 结束于 {period.end_at.isoformat()}",
                )
        elif self.kind is ReportKind.INVENTORY:
            self.inventory_version(edition)
        elif not _STATEMENT.fullmatch(edition):
            raise _wrong("edition", "the id of a statement", edition)

    def statement_id(self, edition: str) -> str:
        """Return under which id an edition's versions are filed."""
        return f"{self.definition_id}/{edition}"

    def due_edition(self, at: datetime) -> str:
        """Return the edition that falls due at a time: of the last period that is over."""
        if self.length is None:
            raise ValueError(f"{self.kind} has no schedule")
        return last_over(self.length, at).name

    def document(self) -> dict[str, Any]:
        """Return it as it is stored; ``definition_of`` reads it back."""
        schedule = None
        if self.schedule is not None:
            schedule = {"rule": self.schedule.rule, "since": self.schedule.since.isoformat()}
        return {
            "definition_id": self.definition_id,
            "kind": self.kind.value,
            "name": self.name.en,
            "name_zh": self.name.zh,
            "subject_kind": self.subject_kind.value,
            "subject_id": self.subject_id,
            "languages": [one.value for one in self.languages],
            "formats": [one.value for one in self.formats],
            "schedule": schedule,
            "stated": {key.value: text for key, text in sorted(self.stated.items())},
        }


def definition_of(document: Mapping[str, Any], *, version: int) -> Definition:
    """Return the definition of a stored document.

    Raises:
        InvalidInput: Nothing can be reported by it.
    """
    schedule = document["schedule"]
    return Definition(
        definition_id=document["definition_id"],
        version=version,
        kind=ReportKind(document["kind"]),
        name=Text(document["name"], document["name_zh"]),
        subject_kind=SubjectKind(document["subject_kind"]),
        subject_id=document["subject_id"],
        languages=tuple(Language(one) for one in document["languages"]),
        formats=tuple(FileFormat(one) for one in document["formats"]),
        schedule=None if schedule is None else Schedule(schedule["rule"], date.fromisoformat(schedule["since"])),
        stated={Stated(key): text for key, text in document["stated"].items()},
    )


def _wrong(field_name: str, expected: str, found: object) -> InvalidInput:
    return InvalidInput(
        f"{field_name}: expected {expected}, found {found!r}",
        message_zh=f"{field_name}:应为 {expected},实际为 {found!r}",
    )
