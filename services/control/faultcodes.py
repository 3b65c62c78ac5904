"""Codes and texts of faults in switching: data of this release, read strictly."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from libs.common.errors import InvalidFile, Problem
from services.control.domain.faults import Fault

FILE = "switch_faults.csv"
COLUMNS = ("fault", "code", "name_zh", "name_en", "text_zh", "text_en", "advice_zh", "advice_en")
CODE = re.compile(r"S[0-9]{2}")


@dataclass(frozen=True, slots=True)
class FaultCode:
    """How a fault is told to people and other systems."""

    fault: Fault
    code: str
    """``S`` and two digits; it never changes its meaning."""
    name_zh: str
    name_en: str
    text_zh: str
    text_en: str
    advice_zh: str
    advice_en: str


@cache
def fault_codes() -> Mapping[Fault, FaultCode]:
    """Return the codes that this release ships.

    Raises:
        InvalidFile: A line is wrong, or a fault has none.
    """
    return parse_codes((files("services.control") / "data" / FILE).read_text(encoding="utf-8"))


def parse_codes(text: str) -> Mapping[Fault, FaultCode]:
    """Return the codes of a file.

    Raises:
        InvalidFile: A line is wrong, or a fault has none; all wrong places are listed.
    """
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        found_header = ", ".join(reader.fieldnames or ())
        raise InvalidFile(FILE, [Problem(line=1, field="", expected=", ".join(COLUMNS), found=found_header)])
    faults = {fault.value: fault for fault in Fault}
    problems: list[Problem] = []
    found: dict[Fault, FaultCode] = {}
    codes: set[str] = set()
    for number, row in enumerate(reader, start=2):
        fault = faults.get(row["fault"] or "")
        if fault is None or fault in found:
            problems.append(Problem(line=number, field="fault", expected="a fault, once", found=row["fault"] or ""))
            continue
        if CODE.fullmatch(row["code"] or "") is None or row["code"] in codes:
            problems.append(Problem(line=number, field="code", expected="S00 to S99, once", found=row["code"] or ""))
        for name in COLUMNS[2:]:
            if not row[name]:
                problems.append(Problem(line=number, field=name, expected="a text", found=""))
        codes.add(row["code"])
        found[fault] = FaultCode(fault, *(row[name] or "" for name in COLUMNS[1:]))
    for fault in Fault:
        if fault not in found:
            problems.append(Problem(line=None, field="fault", expected=fault.value, found=""))
    if problems:
        raise InvalidFile(FILE, problems)
    return found
