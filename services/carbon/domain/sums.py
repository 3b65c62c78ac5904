"""Sums of floats whose last digit does not depend on the order of their terms.

A figure has to come out to the last bit when somebody adds up what its trace lists, with whatever program. A plain sum
of floats does not: each addition rounds, and polars adds in another order on every machine. Here every value is split
into layers, each of which adds up without any rounding, so that the sum is rounded once, as ``math.fsum`` does.
Only where an exact sum lies nearer than some 2^-40 of its last digit to the middle between two floats may the two
differ, by that digit.

Source:
    S. M. Rump, T. Ogita, S. Oishi, Accurate Floating-Point Summation, SIAM J. Sci. Comput. 31 (2008), 189-224
    (extraction of vectors).
"""

import math
from collections.abc import Sequence

import polars as pl

_LAYERS = ("_high", "_middle", "_rest")
_BITS = 53
"""Of the significand of a float."""


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
    sums = known.with_columns(*_layers(known[name])).group_by(by).agg(pl.col(layer).sum() for layer in _LAYERS)
    high, middle, rest = (pl.col(layer) for layer in _LAYERS)
    return sums.select(*by, ((rest + middle) + high).alias(name))


def _layers(values: pl.Series) -> list[pl.Series]:
    """Return three series that sum to the values; any partial sums of either of the first two are exact."""
    left = values
    found = []
    largest = values.abs().max()
    room = values.len().bit_length() + 1
    exponent = math.frexp(float(largest))[1] if isinstance(largest, float) else 0
    for layer in _LAYERS[:-1]:
        exponent += room
        # Adding a power of two so large that all sums stay below it leaves the bits that all of them can hold.
        coarse = 2.0**exponent
        part = (left + coarse) - coarse
        found.append(part.alias(layer))
        left = left - part
        exponent -= _BITS
    return [*found, left.alias(_LAYERS[-1])]
