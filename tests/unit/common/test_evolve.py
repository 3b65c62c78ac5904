"""Copies of records with other values."""

from dataclasses import dataclass, replace

import pytest

from libs.common.evolve import evolved
from services.control.domain.commands import Command


@dataclass(frozen=True, slots=True)
class Point:
    """Two numbers, the second with a default."""

    x: int
    y: int = 2


@dataclass(frozen=True, kw_only=True)
class Named:
    """Fields that are taken by name only."""

    x: int
    y: int


def test_it_is_what_the_library_would_have_made() -> None:
    point = Point(1)
    assert evolved(point, y=5) == replace(point, y=5) == Point(1, 5)
    assert evolved(point) == point
    assert evolved(point) is not point


def test_the_record_stays_as_it_is() -> None:
    point = Point(1)
    evolved(point, x=9)
    assert point == Point(1, 2)


def test_a_field_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(TypeError, match="Point has no field z"):
        evolved(Point(1), z=3)


def test_fields_taken_by_name_only_are_refused() -> None:
    with pytest.raises(TypeError, match="Named"):
        evolved(Named(x=1, y=2), x=3)


def test_every_field_of_a_command_keeps_its_place() -> None:
    names = Command.__match_args__
    one = Command(*names)  # type: ignore[arg-type]  # each field holds its own name
    for name in names:
        changed = evolved(one, **{name: "other"})
        assert [getattr(changed, other) for other in names] == ["other" if other == name else other for other in names]
