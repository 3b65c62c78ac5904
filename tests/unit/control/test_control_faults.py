"""Faults of switching: which step means which fault, and the codes that tell them."""

import pytest

from libs.common.contracts.control import CommandState
from libs.common.errors import InvalidFile
from services.control.domain.faults import Fault, fault_after
from services.control.faultcodes import COLUMNS, fault_codes, parse_codes

S = CommandState


@pytest.mark.parametrize(("before", "state", "reason", "is_off", "after"), [
    (None, S.UNKNOWN, "no_answer", False, Fault.NO_ANSWER),
    (None, S.SCHEDULED, "line_down", False, Fault.LINE_DOWN),
    (None, S.SCHEDULED, "not_accepted", False, Fault.NOT_TAKEN),
    (None, S.SCHEDULED, "not_followed", False, Fault.STILL_OPEN),
    (None, S.FAILED, "not_followed", True, Fault.STILL_CLOSED),
    (None, S.SCHEDULED, "device_refused", False, Fault.REFUSED),
    (Fault.NO_ANSWER, S.DISPATCHED, "", False, Fault.NO_ANSWER),
    (Fault.NO_ANSWER, S.ACCEPTED, "", False, Fault.NO_ANSWER),
    (Fault.NO_ANSWER, S.SCHEDULED, "reads_open", False, Fault.STILL_OPEN),
    (Fault.NO_ANSWER, S.SUCCEEDED, "read_closed", False, None),
    (Fault.LOCAL_LOCK, S.DISPATCHED, "", False, None),
    (None, S.SUCCEEDED, "no_power", False, Fault.NO_POWER),
    (Fault.NO_ANSWER, S.SUPERSEDED, "superseded", False, None),
    (None, S.CANCELLED, "storm", True, None),
    (None, S.REJECTED, "coverage_layer", True, Fault.FORBIDDEN),
    (None, S.EXPIRED, "too_late", True, Fault.TOO_LATE),
    (None, S.FAILED, "still_draws_power", True, Fault.STILL_DRAWS_POWER),
])  # fmt: skip
def test_a_step_leaves_the_fault_that_a_person_can_do_something_about(
    before: Fault | None, state: CommandState, reason: str, is_off: bool, after: Fault | None
) -> None:
    assert fault_after(before, state, reason, is_off=is_off) is after


def test_every_fault_has_a_code_of_its_own_and_texts_in_both_languages() -> None:
    codes = fault_codes()
    assert codes.keys() == set(Fault)
    assert len({one.code for one in codes.values()}) == len(Fault)
    assert codes[Fault.NO_ANSWER].code == "S01"


@pytest.mark.parametrize(("line", "field"), [
    ("no_answer,01,a,b,c,d,e,f", "code"),
    ("no_answer,S01,,b,c,d,e,f", "name_zh"),
    ("unheard_of,S01,a,b,c,d,e,f", "fault"),
])  # fmt: skip
def test_a_wrong_line_is_named(line: str, field: str) -> None:
    with pytest.raises(InvalidFile) as wrong:
        parse_codes(f"{','.join(COLUMNS)}\n{line}\n")
    assert (2, field) in [(problem.line, problem.field) for problem in wrong.value.problems]
