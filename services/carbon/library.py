"""The tables that ship with Wattring: emission factors, standard coal, efficiency schemes; checked line by line."""

import csv
from collections.abc import Callable
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from typing import TypeVar

from libs.common.errors import InvalidFile, Problem
from services.carbon.domain.coal import Basis, CoalCoefficient
from services.carbon.domain.efficiency import Kind, Standard
from services.carbon.domain.factors import EmissionFactor, FactorLibrary, family_of, series_of_id

SHIPPED = "emission_factors.csv"
COAL = "standard_coal.csv"
EFFICIENCY = "efficiency_standards.csv"

Row = TypeVar("Row")


def load_shipped() -> list[EmissionFactor]:
    """Return the shipped factors.

    Raises:
        InvalidFile: A row is wrong; the message names line and column.
    """
    return parse(_text(SHIPPED), source=SHIPPED)


def load_library() -> FactorLibrary:
    """Return the shipped factors as a library."""
    return FactorLibrary(load_shipped())


def load_coal() -> list[CoalCoefficient]:
    """Return the shipped coefficients of standard coal.

    Raises:
        InvalidFile: A row is wrong; the message names line and column.
    """
    return parse_coal(_text(COAL), source=COAL)


def load_standards() -> list[Standard]:
    """Return the shipped schemes of carbon efficiency codes: limits of levels and classes, without sector averages.

    Raises:
        InvalidFile: A row is wrong; the message names line and column.
    """
    return parse_standards(_text(EFFICIENCY), source=EFFICIENCY)


def parse(text: str, *, source: str) -> list[EmissionFactor]:
    """Return the factors of a CSV file.

    ``known_from`` may be empty: the row then counts as known from the last day of the year of publication.

    Raises:
        InvalidFile: A row is wrong; nothing is taken.
    """

    def row_of(row: dict[str, str], refuse: Callable[[str, str], None]) -> EmissionFactor | None:
        value = _number(row["value"])
        if value is None:
            refuse("value", "a number")
        if not row["year"].isdigit():
            refuse("year", "a year")
        if not row["source_year"].isdigit():
            refuse("source_year", "a year")
        known_from = _day(row.get("known_from") or "") if row.get("known_from") else None
        if row.get("known_from") and known_from is None:
            refuse("known_from", "a day such as 2024-12-20")
        if value is None or not (row["year"].isdigit() and row["source_year"].isdigit()):
            return None
        published = int(row["source_year"])
        return EmissionFactor(
            factor_id=row["factor_id"],
            series=series_of_id(row["factor_id"]),
            family=family_of(row["factor_id"]),
            category=row["category"],
            region=row["region"],
            data_year=int(row["year"]),
            value=value,
            unit=row["unit"],
            gas=row["gas"],
            source=row["source_title"],
            source_year=published,
            known_from=known_from or date(published, 12, 31),
            confidence=row["confidence"],
            name_en=row["name_en"],
            name_zh=row["name_zh"],
        )

    return _rows(text, source=source, key="factor_id", row_of=row_of)


def parse_coal(text: str, *, source: str) -> list[CoalCoefficient]:
    """Return the coefficients of a CSV file; an empty ``kgce_per_unit`` is one that has to be given per year.

    Raises:
        InvalidFile: A row is wrong; nothing is taken.
    """

    def row_of(row: dict[str, str], refuse: Callable[[str, str], None]) -> CoalCoefficient | None:
        value = _number(row["kgce_per_unit"]) if row["kgce_per_unit"] else None
        if row["kgce_per_unit"] and value is None:
            refuse("kgce_per_unit", "a number")
        if row["basis"] not in [basis.value for basis in Basis]:
            refuse("basis", f"one of {', '.join(Basis)}")
            return None
        if not row["source_year"].isdigit():
            refuse("source_year", "a year")
            return None
        return CoalCoefficient(
            coeff_id=row["coeff_id"],
            name_en=row["energy_en"],
            name_zh=row["energy_zh"],
            kind=row["kind"],
            unit=row["physical_unit"],
            kgce_per_unit=value,
            basis=Basis(row["basis"]),
            source=row["source_title"],
            edition=int(row["source_year"]),
            confidence=row["confidence"],
            note=row["note"],
        )

    return _rows(text, source=source, key="coeff_id", row_of=row_of)


def parse_standards(text: str, *, source: str) -> list[Standard]:
    """Return the efficiency standards of a CSV file; limits are separated by ``;``.

    Raises:
        InvalidFile: A row is wrong; nothing is taken.
    """

    def row_of(row: dict[str, str], refuse: Callable[[str, str], None]) -> Standard | None:
        first = _day(row["valid_from"])
        limits = {name: [_number(one) for one in row[name].split(";") if one] for name in ("levels", "classes")}
        benchmark = _number(row["benchmark"]) if row["benchmark"] else None
        if row["benchmark"] and benchmark is None:
            refuse("benchmark", "a number")
        for name, found in limits.items():
            if None in found:
                refuse(name, "numbers with ; between them")
        if first is None:
            refuse("valid_from", "a day such as 2021-01-01")
        if row["kind"] not in list(Kind):
            refuse("kind", f"one of {', '.join(Kind)}")
        if first is None or row["kind"] not in list(Kind):
            return None
        return Standard(
            standard_id=row["standard_id"],
            kind=Kind(row["kind"]),
            name=row["name_en"],
            name_zh=row["name_zh"],
            valid_from=first,
            valid_to=_day(row["valid_to"]) if row["valid_to"] else None,
            benchmark=None if benchmark is None else float(benchmark),
            levels=tuple(float(one) for one in limits["levels"] if one is not None),
            classes=tuple(float(one) for one in limits["classes"] if one is not None),
            source=row["source_title"],
            confidence=row["confidence"],
        )

    return _rows(text, source=source, key="standard_id", row_of=row_of)


def _rows(
    text: str, *, source: str, key: str, row_of: Callable[[dict[str, str], Callable[[str, str], None]], Row | None]
) -> list[Row]:
    found: list[Row] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    reader = csv.DictReader(text.splitlines())
    for row in reader:

        def refuse(field: str, expected: str, row: dict[str, str] = row, line: int = reader.line_num) -> None:
            problems.append(Problem(line=line, field=field, expected=expected, found=row[field]))

        if row[key] in seen:
            refuse(key, "a new id")
        seen.add(row[key])
        one = row_of(row, refuse)
        if one is not None:
            found.append(one)
    if problems:
        raise InvalidFile(source, problems)
    return found


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _text(name: str) -> str:
    return (files("services.carbon") / "data" / name).read_text(encoding="utf-8")
