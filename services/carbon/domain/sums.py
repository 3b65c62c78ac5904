"""Sums of floats whose last digit does not depend on the order of their terms.

A figure has to come out to the last bit when somebody adds up what its trace lists, with whatever program. A plain sum
of floats does not: each addition rounds, and polars adds in another order on every machine. Here every value is split
into layers, each of which adds up without any rounding, so that the sum is rounded once, as ``math.fsum`` does.
Only where an exact sum lies nearer than some 2^-30 of its last digit to the middle between two floats may the two
differ, by that digit.

The layers are the same for all values, so layers that were summed apart add up to those of the whole, in any order.

Source:
    S. M. Rump, T. Ogita, S. Oishi, Accurate Floating-Point Summation, SIAM J. Sci. Comput. 31 (2008), 189-224
    (extraction of vectors).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

LAYERS = ("high", "middle", "rest")
_HIGH = 1.5 * 2.0**38
"""Adding it leaves multiples of 2^-14; sums of these are exact below 2^39, which is 500 TWh. Beyond that a sum is as
good as a plain one."""
_MIDDLE = 1.5 * 2.0**2
"""Adding it leaves multiples of 2^-50 below 2^-14; the worst 2^17 of these add up exactly, and of others far more."""

Values = TypeVar("Values", pl.Series, NDArray[np.float64])


def layers_of(values: Values) -> tuple[Values, Values, Values]:
    """Return three layers that sum to the values; partial sums of either of the first two are exact."""
    high = (values + _HIGH) - _HIGH
    left = values - high
    middle = (left + _MIDDLE) - _MIDDLE
    return high, middle, left - middle


def rounded() -> pl.Expr:
    """Return the sum whose layers are the columns ``LAYERS``, rounded once."""
    high, middle, rest = (pl.col(layer) for layer in LAYERS)
    return (rest + middle) + high


def rounded_sums(frame: pl.DataFrame, name: str, by: Sequence[str]) -> pl.DataFrame:
    """Return the sum of each group's known values, rounded once; groups in which nothing is known are left out.

    Args:
        frame: The values and the columns of ``by``.
        name: Column of values, Float64, finite; nulls are unknown.
        by: Columns that make a group.

    Returns:
        One row per group: the columns of ``by``, and ``name``.
    """
    known = frame.select(*by, name).filter(pl.col(name).is_not_null())
    layers = [layer.alias(label) for label, layer in zip(LAYERS, layers_of(known[name]), strict=True)]
    sums = known.select(by).with_columns(layers).group_by(by).agg(pl.col(layer).sum() for layer in LAYERS)
    return sums.select(*by, rounded().alias(name))
