"""Published statements as they are filed: which, when, by whom, with which digest."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum


class StatementKind(StrEnum):
    """What a statement is of."""

    INVENTORY = "inventory"
    AVOIDED = "avoided"
    REPORT = "report"
    """A finished report of any kind, as it was handed out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """One published version of one statement, without its text."""

    kind: StatementKind
    statement_id: str
    version: int
    name: str
    digest: str
    """SHA-256 of the stored text."""
    table_digest: str
    """Of all factors that were known on ``known_on``."""
    known_on: date
    published_at: datetime
    published_by: str
