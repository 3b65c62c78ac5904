"""Time-of-use tariffs in files: the ones that ship with Wattring, and those that a person imports."""

import csv
import io
from collections.abc import Iterable
from importlib.resources import files

from libs.common.errors import InvalidFile, Problem
from services.carbon.domain.tariff.periods import DAY_MIN, Band, TariffRow, clock
from services.carbon.tablefile import RowReader, read_rows

SHIPPED = "tou_tariffs.csv"
COLUMNS = (
    "tariff_id",
    "region",
    "customer_class",
    "valid_from",
    "valid_to",
    "months",
    "day_type",
    "start",
    "end",
    "band",
    "price_ratio",
    "ratio_base",
    "source",
    "confidence",
)
"""What is read; other columns (names, season, note) are for people."""


def shipped_rows() -> list[TariffRow]:
    """Return the windows of the shipped tariffs.

    Raises:
        InvalidFile: A row is wrong; the message names line and column.
    """
    body = (files("services.carbon") / "data" / SHIPPED).read_bytes()
    return read_tariff_rows(body, SHIPPED)


def read_tariff_rows(body: bytes, source: str) -> list[TariffRow]:
    """Return the rows of a CSV file or a workbook.

    Raises:
        InvalidFile: A row cannot be read; nothing is taken.
    """
    rows: list[TariffRow] = []
    problems: list[Problem] = []
    for raw in read_rows(body, source, required=[name for name in COLUMNS if name != "valid_to"]):
        reader = RowReader(raw)
        rows.append(_row(reader))
        problems += reader.problems
    if problems:
        raise InvalidFile(source, problems)
    return rows


def write_tariff_rows(rows: Iterable[TariffRow]) -> bytes:
    """Return rows as a CSV file that can be imported again, in UTF-8 with the mark by which Excel knows it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in rows:
        writer.writerow(
            (
                one.tariff_id,
                one.region,
                one.customer_class,
                one.valid_from,
                one.valid_to or "",
                ";".join(map(str, sorted(one.months))),
                one.day_type,
                clock(one.start_min),
                clock(one.end_min),
                one.band.value,
                one.ratio,
                one.ratio_base,
                one.source,
                one.confidence,
            )
        )
    return text.getvalue().encode("utf-8-sig")


def _row(reader: RowReader) -> TariffRow:
    """Return a row; where the reader has noted a problem it is not to be used."""
    a_time, a_time_zh = "a time from 00:00 to 24:00", "00:00 至 24:00 的时刻"
    return TariffRow(
        line=reader.line,
        tariff_id=reader.text("tariff_id"),
        region=reader.text("region"),
        customer_class=reader.text("customer_class"),
        valid_from=reader.day("valid_from"),
        valid_to=reader.day("valid_to") if reader.has("valid_to") else None,
        months=reader.read("months", _months, frozenset(), "months as 1;2;12", "月份,如 1;2;12"),
        day_type=reader.text("day_type"),
        start_min=reader.read("start", minute, 0, a_time, a_time_zh),
        end_min=reader.read("end", minute, DAY_MIN, a_time, a_time_zh),
        band=reader.read("band", Band, Band.FLAT, f"one of {', '.join(Band)}", f"{'、'.join(Band)} 之一"),
        ratio=reader.number("price_ratio"),
        ratio_base=reader.text("ratio_base"),
        source=reader.text("source"),
        confidence=reader.text("confidence"),
    )


def minute(text: str) -> int:
    """Return the minute of the day of ``HH:MM``; ``24:00`` is the next midnight.

    Raises:
        ValueError: It is no such time.
    """
    hours, colon, minutes = text.partition(":")
    if not (colon and len(hours) == len(minutes) == 2 and (hours + minutes).isascii() and (hours + minutes).isdigit()):
        raise ValueError(text)
    minute = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or minute > DAY_MIN:
        raise ValueError(text)
    return minute


def _months(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(";"))
