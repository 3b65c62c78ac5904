"""What an inventory is of: any set of nodes with shares and time spans, and what is left out with its reason.

An organisation for a year, a building for a month, one meeting room for the two hours of one event: all are parts
(node, share, span). Nothing may be counted twice, so at no instant do the shares of a node and of the nodes that
contain it add up to more than one.

Source:
    GHG Protocol Corporate Standard, chapters 3 and 4; ISO 14064-1:2018, 5.1 and 5.2.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from libs.common.errors import InvalidInput

TOLERANCE = 1e-9
"""Shares that add up to one but for this are one: thirds in binary."""


class Approach(StrEnum):
    """By which right an organisation counts a node."""

    OPERATIONAL_CONTROL = "operational_control"
    FINANCIAL_CONTROL = "financial_control"
    EQUITY_SHARE = "equity_share"


class CountedTwice(InvalidInput):
    """A node is in the boundary by more than the whole of it."""

    code = "counted_twice"
    title_zh = "边界重复计算"


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open ``[start, end)``, aware times."""

    start: datetime
    end: datetime

    def overlap(self, other: "Span") -> "Span | None":
        """Return what both have in common, None when that is nothing."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Span(start, end) if start < end else None

    @property
    def seconds(self) -> float:
        """Its length. [s]"""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class Part:
    """A node, or a share of it, for some time."""

    node: str
    span: Span
    share: float = 1.0
    """Of what the node emits: an equity share, a tenant's metered share, a meeting's part of a room. [1]"""
    share_reason: str = ""
    """What the share rests on; needed when it is not the whole."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Something that belongs to the boundary and is not quantified."""

    subject: str
    """Category, source or gas."""
    reason: str
    significance: float | None = None
    """Estimated share of the total, None where there is no estimate. [1]"""


@dataclass(frozen=True, slots=True)
class Boundary:
    """What an inventory is of."""

    organisation: str
    approach: Approach
    parts: Sequence[Part]
    exclusions: Sequence[Exclusion] = ()

    def share_of(self, nodes: Sequence[str], span: Span) -> list[tuple[float, Span]]:
        """Return with which share and when a node is in, within a span.

        Args:
            nodes: The node and those that contain it.
            span: What of it is asked for.
        """
        found = []
        for part in self.parts:
            if part.node in nodes and (common := part.span.overlap(span)) is not None:
                found.append((part.share, common))
        return found

    @property
    def span(self) -> Span:
        """From the first start to the last end of its parts."""
        return Span(min(part.span.start for part in self.parts), max(part.span.end for part in self.parts))


def check_boundary(boundary: Boundary, ancestors_of: Callable[[str], Sequence[str]], nodes: Iterable[str] = ()) -> None:
    """Refuse a boundary that is empty, unexplained or counts something twice.

    Args:
        boundary: What was declared.
        ancestors_of: The nodes that contain a node: its room, site, organisation, region.
        nodes: What activities are of: one may lie in two parts of which neither contains the other.

    Raises:
        InvalidInput: No part, an empty span, a share outside 0 to 1 or without reason, an exclusion without reason.
        CountedTwice: At some instant a node is in by more than the whole of it.
    """
    if not boundary.parts:
        raise InvalidInput("boundary: expected at least one part", message_zh="边界:至少应包含一个节点")
    for part in boundary.parts:
        if part.span.end <= part.span.start:
            raise InvalidInput(
                f"part {part.node}: expected an end after its start",
                message_zh=f"节点 {part.node}:结束时间应晚于开始时间",
            )
        if not 0 < part.share <= 1:
            raise InvalidInput(
                f"part {part.node}: share: expected more than 0 and at most 1, found {part.share}",
                message_zh=f"节点 {part.node}:比例应大于 0 且不大于 1,实际为 {part.share}",
            )
        if part.share < 1 and not part.share_reason:
            raise InvalidInput(
                f"part {part.node}: expected a reason for its share of {part.share:g}",
                message_zh=f"节点 {part.node}:应说明比例 {part.share:g} 的依据",
            )
    for exclusion in boundary.exclusions:
        if not exclusion.reason:
            raise InvalidInput(
                f"exclusion {exclusion.subject}: expected a reason", message_zh=f"排除项 {exclusion.subject}:应说明理由"
            )
    _check_overlaps(boundary.parts, ancestors_of, nodes)


def _check_overlaps(parts: Sequence[Part], ancestors_of: Callable[[str], Sequence[str]], nodes: Iterable[str]) -> None:
    by_node: dict[str, list[Part]] = {}
    for part in parts:
        by_node.setdefault(part.node, []).append(part)
    for node in dict.fromkeys((*by_node, *nodes)):
        above = [one for name in (node, *ancestors_of(node)) for one in by_node.get(name, ())]
        # The sum of shares can only rise where a part begins.
        for instant in sorted({part.span.start for part in above}):
            inside = [part for part in above if part.span.start <= instant < part.span.end]
            total = sum(part.share for part in inside)
            if total > 1 + TOLERANCE:
                names = ", ".join(f"{part.node} {part.share:g}" for part in inside)
                raise CountedTwice(
                    f"node {node} is counted {total:g} times from {instant.isoformat()}: {names}",
                    message_zh=f"节点 {node} 自 {instant.isoformat()} 起重复计算({total:g} 次):{names}",
                    node=node,
                )
