"""A figure that can say why it is what it is: its formula, its inputs and where each of them comes from.

The trace is made where the figure is made, so it cannot disagree with it. ``None`` is unknown and never zero: a figure
with an unknown input is unknown, and says which input that was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """What a reader has to know of a figure before relying on it."""

    PROVISIONAL_FACTOR = "provisional_factor"
    """No factor of the activity's year is published yet; an earlier year's stands in."""
    WIDER_AREA = "wider_area"
    """The place has no factor of its own; a region's or the country's stands in."""
    AVERAGE_FOR_RESIDUAL = "average_for_residual"
    """There is no residual factor; the national average stands in."""
    ENABLED_BY_PERSON = "enabled_by_person"
    """A factor whose confidence is doubtful was enabled by a person."""
    NO_FACTOR = "no_factor"
    UNKNOWN_INPUT = "unknown_input"
    ESTIMATE = "estimate"
    """Computed by a fall-back method of low quality."""
    INCOMPLETE = "incomplete"
    """A part of the span is not known; the amount is of the rest, which the completeness beside it tells."""
    RUNNING = "running"
    """The span is not over; the figure will grow."""
    APPORTIONED = "apportioned"
    """A document covers more time than the boundary; its share was taken in proportion to time."""
    MONTREAL_GAS = "montreal_gas"
    """A gas of the Montreal Protocol: listed as a memo item, in no total unless asked."""
    METHANE_NOT_QUANTIFIED = "methane_and_nitrous_oxide_not_quantified"
    SURPLUS_CERTIFICATES = "surplus_certificates"
    """More certified energy than consumption; the rest covers nothing."""
    OUTSIDE_BOUNDARY = "outside_boundary"
    """Not of the declared boundary; listed and in no total."""
    CONVERTED_INSIDE = "converted_inside"
    """Made inside the boundary from energy that is counted at its input."""


@dataclass(frozen=True, slots=True)
class Input:
    """One number that went into a figure."""

    name: str
    value: float | None
    unit: str
    origin: str
    """Where it comes from: ``factor GRID-44-2023 r1``, ``circuit c-17``, ``bill 2026-03``, ``parameter``."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its reasons."""

    value: float | None
    unit: str
    formula: str
    source: str
    """Standard or method, with its clause."""
    inputs: Sequence[Input]
    marks: frozenset[Mark] = frozenset()

    @property
    def known(self) -> bool:
        """Whether there is a number."""
        return self.value is not None
