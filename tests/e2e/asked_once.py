"""Hooks of Schemathesis: what meets the same check again and again is asked of each place in part.

Half of all requests put a value of a wrong type somewhere, five kinds of value at each of two thousand places, and one
in fourteen asks a path with a method that it does not have. Two types of the five and one method are left; which ones
differs from place to place, so that each is tried in many.
"""

import zlib
from collections import Counter
from typing import Any

import schemathesis
from schemathesis.generation.meta import CoveragePhaseData, CoverageScenario

KINDS = 5
_asked: Counter[str] = Counter()


@schemathesis.hook
def filter_case(_: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Return whether the request is made."""
    data = case.meta.phase.data if case.meta is not None else None
    if not isinstance(data, CoveragePhaseData):
        return True
    match data.scenario:
        case CoverageScenario.INCORRECT_TYPE:
            place = (
                f"{case.operation.label} {data.location} {data.parameter_location} {data.parameter} {data.description}"
            )
            return _turn(place) in (0, 1 + _drawn(place) % (KINDS - 1))
        case CoverageScenario.UNSPECIFIED_HTTP_METHOD:
            return _turn(case.path) == _drawn(case.path) % KINDS
    return True


def _turn(place: str) -> int:
    """Return the how manieth kind of value, or method, comes at the place."""
    _asked[place] += 1
    return (_asked[place] - 1) % KINDS


def _drawn(place: str) -> int:
    return zlib.crc32(place.encode())
