"""Price sheets in files: one row per province, class, voltage and month."""

from datetime import date
from decimal import Decimal

from libs.common.errors import InvalidFile, InvalidInput, Problem
from services.carbon.domain.tariff.basic import BasicPrices
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.sheet import NOT_RECORDED, SheetPrice
from services.carbon.tablefile import RowReader, read_rows

REQUIRED = ("region", "customer_class", "voltage", "month", "base_cny_per_kwh", "fixed_cny_per_kwh", "source")
BASIC = (
    "capacity_cny_per_kva",
    "demand_cny_per_kw",
    "contract_tolerance",
    "surcharge_multiple",
    "contract_floor_share",
    "discount_from_kwh_per_kva",
    "discount_multiple",
)
UNIT = "CNY/kWh"
OPTIONAL = (*BASIC, "unit", "note")
NAMES = {
    "区域": "region",
    "用电类别": "customer_class",
    "电压等级": "voltage",
    "月份": "month",
    "浮动电价(元/千瓦时)": "base_cny_per_kwh",
    "固定电价(元/千瓦时)": "fixed_cny_per_kwh",
    "容量电价(元/千伏安·月)": "capacity_cny_per_kva",
    "需量电价(元/千瓦·月)": "demand_cny_per_kw",
    "单位": "unit",
    "来源": "source",
    "备注": "note",
}


def read_prices(body: bytes, source: str) -> list[SheetPrice]:
    """Return the prices of a CSV file or a workbook; all are version 1, which is for the books to raise.

    Raises:
        InvalidFile: A row cannot be a price; nothing is taken.
    """
    found: dict[PriceKey, tuple[int, SheetPrice]] = {}
    problems: list[Problem] = []
    for raw in read_rows(body, source, required=REQUIRED, optional=OPTIONAL, names=NAMES):
        reader = RowReader(raw)
        price = _price(reader)
        problems += reader.problems
        if price is None:
            continue
        key = price.energy.key
        if key in found:
            line = found[key][0]
            problems.append(
                Problem(
                    line=reader.line,
                    field="month",
                    found=f"{key.month:%Y-%m}",
                    expected=f"each region, class, voltage and month once; line {line} has this one",
                    expected_zh=f"每个区域、类别、电压与月份只出现一次,第 {line} 行已有",
                )
            )
        found.setdefault(key, (reader.line, price))
    if problems:
        raise InvalidFile(source, problems)
    return [price for _, price in found.values()]


def month_of(text: str) -> date:
    """Return the first day of a month written as ``2026-03`` or ``2026-03-01``.

    Raises:
        ValueError: It is none.
    """
    found = date.fromisoformat(f"{text}-01" if len(text) == 7 else text)
    if found.day != 1 or not 1990 <= found.year < 2200:
        raise ValueError(text)
    return found


def _price(reader: RowReader) -> SheetPrice | None:
    if reader.has("unit"):
        reader.read("unit", _unit, UNIT, f"{UNIT}, the unit of both prices", f"{UNIT}(两项电价的单位)")
    key = PriceKey(
        reader.text("region"),
        reader.text("customer_class"),
        reader.text("voltage"),
        reader.read("month", month_of, date(2000, 1, 1), "a month as 2026-03", "月份,如 2026-03"),
    )
    base, fixed = reader.number("base_cny_per_kwh"), reader.number("fixed_cny_per_kwh")
    source = reader.text("source")
    given = {name: reader.number(name) for name in BASIC if reader.has(name)}
    if reader.problems:
        return None
    try:
        return SheetPrice(
            EnergyPrice(
                key=key, version=1, base_cny_per_kwh=base, fixed_cny_per_kwh=fixed, source=source,
                recorded_at=NOT_RECORDED,
            ),
            basic_prices(given),
        )  # fmt: skip
    except InvalidInput as exc:
        english, chinese = exc.both
        field, _, expected = english.partition(": expected ")
        reader.problems.append(
            Problem(line=reader.line, field=field, expected=expected, expected_zh=chinese.partition(":应为")[2])
        )
        return None


def basic_prices(given: dict[str, Decimal]) -> BasicPrices | None:
    """Return the prices of the basic fee, None where none is given.

    Raises:
        InvalidInput: One lies outside of its limits.
    """
    if not given:
        return None
    defaults: dict[str, Decimal | None] = {"capacity_cny_per_kva": None, "demand_cny_per_kw": None}
    return BasicPrices(**(defaults | given))  # type: ignore[arg-type]  # the names are those of its fields


def _unit(text: str) -> str:
    if text not in (UNIT, "元/千瓦时", "元/kWh"):
        raise ValueError(text)
    return UNIT
