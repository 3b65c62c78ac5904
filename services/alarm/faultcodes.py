"""Codes and texts of fault causes: data of this release, read strictly, with other codes for some receivers."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from libs.common.errors import InvalidFile, Problem
from services.alarm.domain.diagnosis.causes import Cause

FILE = "fault_codes.csv"
COLUMNS = ("cause", "code", "name_zh", "name_en", "text_zh", "text_en", "advice_zh", "advice_en")
CODE = re.compile(r"[0-9]{2}")


@dataclass(frozen=True, slots=True)
class FaultCode:
    """How a cause is told to people and other systems."""

    cause: Cause
    code: str
    """Two digits; a receiver may have another."""
    name_zh: str
    name_en: str
    text_zh: str
    """异常信息."""
    text_en: str
    advice_zh: str
    """处理建议."""
    advice_en: str


def load_codes() -> Mapping[Cause, FaultCode]:
    """Return the codes that this release ships.

    Raises:
        InvalidFile: A line is wrong, or a cause has none.
    """
    return parse_codes(files("services.alarm").joinpath("data", FILE).read_text(encoding="utf-8"))


def parse_codes(text: str) -> Mapping[Cause, FaultCode]:
    """Return the codes of a file.

    Raises:
        InvalidFile: A line is wrong, or a cause has none; all wrong places are listed.
    """
    problems: list[Problem] = []
    found: dict[Cause, FaultCode] = {}
    codes: set[str] = set()
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        problems.append(
            Problem(line=1, field="", expected=", ".join(COLUMNS), found=", ".join(reader.fieldnames or ()))
        )
        raise InvalidFile(FILE, problems)
    causes = {cause.value: cause for cause in Cause}
    for number, row in enumerate(reader, start=2):
        cause = causes.get(row["cause"] or "")
        if cause is None or cause in found:
            problems.append(Problem(line=number, field="cause", expected="a cause, once", found=row["cause"] or ""))
            continue
        if CODE.fullmatch(row["code"] or "") is None or row["code"] in codes:
            problems.append(Problem(line=number, field="code", expected="two digits, once", found=row["code"] or ""))
        for name in COLUMNS[2:]:
            if not row[name]:
                problems.append(Problem(line=number, field=name, expected="a text", found=""))
        codes.add(row["code"])
        found[cause] = FaultCode(cause, *(row[name] or "" for name in COLUMNS[1:]))
    for cause in Cause:
        if cause not in found:
            problems.append(Problem(line=None, field="cause", expected=cause.value, found=""))
    if problems:
        raise InvalidFile(FILE, problems)
    return found
