"""The factor library that ships with Wattring: read once, checked line by line."""

import csv
from decimal import Decimal, InvalidOperation
from importlib.resources import files

from libs.common.errors import InvalidFile, Problem
from services.carbon.domain.factors import EmissionFactor

SHIPPED = "emission_factors.csv"


def load_shipped() -> list[EmissionFactor]:
    """Return the shipped factors.

    Raises:
        InvalidFile: A row is wrong; the message names line and column.
    """
    text = (files("services.carbon") / "data" / SHIPPED).read_text(encoding="utf-8")
    return parse(text, source=SHIPPED)


def parse(text: str, *, source: str) -> list[EmissionFactor]:
    """Return the factors of a CSV file.

    Raises:
        InvalidFile: A row is wrong; nothing is taken.
    """
    factors: list[EmissionFactor] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    reader = csv.DictReader(text.splitlines())
    for row in reader:
        line = reader.line_num
        if row["factor_id"] in seen:
            problems.append(Problem(line=line, field="factor_id", expected="a new id", found=row["factor_id"]))
        seen.add(row["factor_id"])
        try:
            value = Decimal(row["value"])
        except InvalidOperation:
            problems.append(Problem(line=line, field="value", expected="a number", found=row["value"]))
            continue
        if not row["year"].isdigit():
            problems.append(Problem(line=line, field="year", expected="a year", found=row["year"]))
            continue
        factors.append(
            EmissionFactor(
                factor_id=row["factor_id"],
                category=row["category"],
                region=row["region"],
                data_year=int(row["year"]),
                value=value,
                unit=row["unit"],
                source=row["source_title"],
                source_year=int(row["source_year"]) if row["source_year"].isdigit() else None,
                confidence=row["confidence"],
                name_en=row["name_en"],
                name_zh=row["name_zh"],
            )
        )
    if problems:
        raise InvalidFile(source, problems)
    return factors
