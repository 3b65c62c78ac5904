"""Scopes and categories, and where each stands in ISO 14064-1 and in GB/T 32150.

Source:
    GHG Protocol Corporate Standard and Corporate Value Chain Standard (15 categories); ISO 14064-1:2018, 5.2.4 and
    annex B (six categories); GB/T 32150 (fuel combustion, process, purchased electricity and heat).
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from libs.common.errors import InvalidInput


class Scope(IntEnum):
    """Of the GHG Protocol."""

    DIRECT = 1
    ENERGY = 2
    VALUE_CHAIN = 3


class IsoCategory(IntEnum):
    """Of ISO 14064-1:2018."""

    DIRECT = 1
    IMPORTED_ENERGY = 2
    TRANSPORT = 3
    PRODUCTS_USED = 4
    USE_OF_PRODUCTS = 5
    OTHER = 6


class GbGroup(StrEnum):
    """Of GB/T 32150; what it does not cover is ``outside``."""

    FUEL_COMBUSTION = "fuel_combustion"
    PROCESS = "process"
    PURCHASED_ENERGY = "purchased_electricity_and_heat"
    OUTSIDE = "outside"


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of source."""

    code: str
    scope: Scope
    iso: IsoCategory
    gb: GbGroup
    number: int | None = None
    """Of the value chain standard, 1 to 15."""


_ROWS: tuple[tuple[str, Scope, IsoCategory, GbGroup, int | None], ...] = (
    ("stationary_combustion", Scope.DIRECT, IsoCategory.DIRECT, GbGroup.FUEL_COMBUSTION, None),
    ("mobile_combustion", Scope.DIRECT, IsoCategory.DIRECT, GbGroup.FUEL_COMBUSTION, None),
    ("fugitive", Scope.DIRECT, IsoCategory.DIRECT, GbGroup.PROCESS, None),
    ("process", Scope.DIRECT, IsoCategory.DIRECT, GbGroup.PROCESS, None),
    ("electricity", Scope.ENERGY, IsoCategory.IMPORTED_ENERGY, GbGroup.PURCHASED_ENERGY, None),
    ("heat", Scope.ENERGY, IsoCategory.IMPORTED_ENERGY, GbGroup.PURCHASED_ENERGY, None),
    ("steam", Scope.ENERGY, IsoCategory.IMPORTED_ENERGY, GbGroup.PURCHASED_ENERGY, None),
    ("cold", Scope.ENERGY, IsoCategory.IMPORTED_ENERGY, GbGroup.PURCHASED_ENERGY, None),
    ("purchased_goods_and_services", Scope.VALUE_CHAIN, IsoCategory.PRODUCTS_USED, GbGroup.OUTSIDE, 1),
    ("capital_goods", Scope.VALUE_CHAIN, IsoCategory.PRODUCTS_USED, GbGroup.OUTSIDE, 2),
    ("fuel_and_energy_related", Scope.VALUE_CHAIN, IsoCategory.PRODUCTS_USED, GbGroup.OUTSIDE, 3),
    ("upstream_transport", Scope.VALUE_CHAIN, IsoCategory.TRANSPORT, GbGroup.OUTSIDE, 4),
    ("waste", Scope.VALUE_CHAIN, IsoCategory.PRODUCTS_USED, GbGroup.OUTSIDE, 5),
    ("business_travel", Scope.VALUE_CHAIN, IsoCategory.TRANSPORT, GbGroup.OUTSIDE, 6),
    ("commuting", Scope.VALUE_CHAIN, IsoCategory.TRANSPORT, GbGroup.OUTSIDE, 7),
    ("upstream_leased_assets", Scope.VALUE_CHAIN, IsoCategory.PRODUCTS_USED, GbGroup.OUTSIDE, 8),
    ("downstream_transport", Scope.VALUE_CHAIN, IsoCategory.TRANSPORT, GbGroup.OUTSIDE, 9),
    ("processing_of_sold_products", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 10),
    ("use_of_sold_products", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 11),
    ("end_of_life_of_sold_products", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 12),
    ("downstream_leased_assets", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 13),
    ("franchises", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 14),
    ("investments", Scope.VALUE_CHAIN, IsoCategory.USE_OF_PRODUCTS, GbGroup.OUTSIDE, 15),
    ("other", Scope.VALUE_CHAIN, IsoCategory.OTHER, GbGroup.OUTSIDE, None),
)

CATEGORIES: dict[str, Category] = {row[0]: Category(*row) for row in _ROWS}


def category(code: str) -> Category:
    """Return a category by its code.

    Raises:
        InvalidInput: There is none.
    """
    found = CATEGORIES.get(code)
    if found is None:
        raise InvalidInput(
            f"category: expected one of {', '.join(CATEGORIES)}, found {code!r}",
            message_zh=f"类别:应为 {'、'.join(CATEGORIES)} 之一,实际为 {code!r}",
        )
    return found
