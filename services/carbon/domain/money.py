"""Money and its rounding: sums are exact, and rounded once, where a person reads them."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from enum import StrEnum

CENT = Decimal("0.01")
_DIGITS = 60
"""More than any product or sum here has: energies have 17 digits, prices and ratios up to 10 each."""


class Rounding(StrEnum):
    """How a figure is rounded when it is shown."""

    HALF_UP = ROUND_HALF_UP
    """Bills of the grid companies."""
    HALF_EVEN = ROUND_HALF_EVEN
    """GB/T 8170."""


def exact() -> AbstractContextManager[Context]:
    """Return a context in which no product or sum of a calculation is rounded."""
    return localcontext(Context(prec=_DIGITS))


def decimal_of(quantity: float) -> Decimal:
    """Return a float as the shortest decimal that means it: 0.1 is 0.1."""
    return Decimal(repr(float(quantity)))


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Return the exact sum."""
    with exact():
        return sum(amounts, Decimal(0))


def to_cents(amount_cny: Decimal, rounding: Rounding = Rounding.HALF_UP) -> Decimal:
    """Return an amount as it is shown. [CNY]"""
    with exact():
        return amount_cny.quantize(CENT, rounding=rounding.value)
