"""Corrections among the extras of stored reports: one takes the place of the report that it names.

``message_id`` is what a report is known by, ``replaces`` the one that a correction takes the place of, ``replaced`` all
that stood in its place before it, to know them again when they are delivered again.
"""

from collections.abc import Mapping
from typing import Any

Extra = Mapping[str, Any] | None


def takes_place_of(report: Extra, standing: Extra) -> bool:
    """Return whether a report is the correction of one that stands."""
    replaces = (report or {}).get("replaces")
    return replaces is not None and replaces == (standing or {}).get("message_id")


def was_replaced_by(report: Extra, standing: Extra) -> bool:
    """Return whether a correction of a report stands in its place already."""
    return (report or {}).get("message_id") in (standing or {}).get("replaced", [])


def in_its_place(report: Extra, standing: Extra) -> dict[str, Any]:
    """Return the extras of a correction that takes the place of what stands."""
    before = standing or {}
    return {**(report or {}), "replaced": [*before.get("replaced", []), before["message_id"]]}
