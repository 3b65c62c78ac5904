"""Answers of export about cards and platforms."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from libs.common.errors import Unavailable
from services.alarm.domain.diagnosis.facts import Said


class _Reply(BaseModel):
    facts: Mapping[str, bool | float | str]
    at: datetime
    missing: Sequence[str]


def read_said(answer: Any) -> Said:
    """Return what a platform said.

    Raises:
        Unavailable: It is no such answer.
    """
    try:
        reply = _Reply.model_validate(answer)
    except ValidationError as exc:
        raise unreadable() from exc
    return Said(reply.facts, reply.at, reply.missing)


def unreadable() -> Unavailable:
    """Return the error of an answer that nobody can read."""
    return Unavailable("export answered what nobody can read", message_zh="export 的应答无法解读")
