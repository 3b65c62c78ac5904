"""Which blocks to read of a device: as few requests as its limits allow, and no value cut in two.

Neighbours of one area are merged over small gaps. A value of several registers is always read in one request:
two reads across a carry of a 64-bit counter would give a jump of 65,536 units. When a device answers a merged
block with "illegal address" the block is split at its widest gap and the split is remembered; a point that
alone gets that answer does not exist on this device.

Source:
    southbound.md 2.5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from libs.common.profiles import Area

MAX_GAP = 16
"""Registers that nobody asked for and that are read along to save a request."""
MAX_REGISTERS = 125
"""Of the protocol; a profile may set less."""
MAX_BITS = 2000
PLANS = 256
"""That are shared at a time; a profile has two or three."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Where one point lies."""

    area: Area
    start: int
    """Wire address of its first register or bit."""
    count: int
    """Registers or bits."""
    point: str

    @property
    def end(self) -> int:
        """Address after the last one."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Block:
    """One request."""

    area: Area
    start: int
    count: int
    spans: tuple[Span, ...]
    """The points in it, in order of their addresses."""

    @property
    def end(self) -> int:
        """Address after the last one."""
        return self.start + self.count


@lru_cache(maxsize=PLANS)
def shared_plan(spans: tuple[Span, ...], max_registers: int, max_gap: int) -> tuple[Block, ...]:
    """Return ``plan`` of these spans, the same objects for all devices that are read alike."""
    return plan(spans, max_registers=max_registers, max_gap=max_gap)


def plan(
    spans: Iterable[Span], *, max_registers: int = MAX_REGISTERS, max_gap: int = MAX_GAP, single: bool = False
) -> tuple[Block, ...]:
    """Return the requests that read all spans, in order of area and address.

    Args:
        spans: What to read; several may lie on the same register.
        max_registers: Longest request that the device takes; bits are limited by the protocol only.
        max_gap: Unasked registers that may be read along between two points.
        single: Read every point (and what lies on the same registers) alone.
    """
    blocks: list[list[Span]] = []
    ends: list[int] = []
    for span in sorted(spans):
        limit = MAX_BITS if span.area.is_bits else min(max_registers, MAX_REGISTERS)
        if blocks:
            first, end = blocks[-1][0], ends[-1]
            covered = span.end <= end
            near = not single and span.start - end <= max_gap
            fits = max(end, span.end) - first.start <= limit
            if first.area is span.area and (covered or (near and fits)):
                blocks[-1].append(span)
                ends[-1] = max(end, span.end)
                continue
        blocks.append([span])
        ends.append(span.end)
    return tuple(
        Block(members[0].area, members[0].start, end - members[0].start, tuple(members))
        for members, end in zip(blocks, ends, strict=True)
    )


def split(block: Block) -> tuple[Block, ...]:
    """Return two smaller blocks with the same points, cut at the widest gap; the block itself when it cannot be cut."""
    cuts = [
        (span.start - end, -abs(2 * (span.start - block.start) - block.count), i)
        for i, (end, span) in enumerate(zip(_ends(block.spans), block.spans[1:], strict=False), start=1)
        if span.start >= end
    ]
    if not cuts:
        return (block,)
    # The widest gap is the likeliest hole; among equal ones the cut nearest the middle.
    _, _, at = max(cuts)
    return (_block(block.spans[:at]), _block(block.spans[at:]))


def _block(spans: Sequence[Span]) -> Block:
    start, end = spans[0].start, max(span.end for span in spans)
    return Block(spans[0].area, start, end - start, tuple(spans))


def _ends(spans: Sequence[Span]) -> list[int]:
    """Return for each span the highest end reached by it and those before it."""
    ends: list[int] = []
    for span in spans:
        ends.append(max(span.end, ends[-1] if ends else 0))
    return ends
