"""Sums are rounded once: they are what ``math.fsum`` says, in whatever order their terms come."""

import math
import random

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from services.carbon.domain.sums import rounded_sums

ENERGIES = st.just(0.0) | st.floats(1e-9, 1e6) | st.floats(-1e6, -1e-9)


def sums(values: list[float | None]) -> list[float]:
    frame = pl.DataFrame({"key": ["a"] * len(values), "value": values}, schema={"key": pl.String, "value": pl.Float64})
    return rounded_sums(frame, "value", ["key"])["value"].to_list()


@given(st.lists(ENERGIES, min_size=1, max_size=200), st.randoms())
def test_the_order_of_terms_does_not_matter(values: list[float], order: random.Random) -> None:
    shuffled = list(values)
    order.shuffle(shuffled)
    assert sums(list(values)) == sums(list(shuffled))


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300))
def test_a_sum_of_meter_energies_is_the_correctly_rounded_one(counts: list[int]) -> None:
    energies = [count / 1000 / 3 for count in counts]
    assert sums(list(energies)) == [math.fsum(energies)]


def test_groups_are_summed_apart_and_what_nobody_knows_is_not_there() -> None:
    frame = pl.DataFrame({"key": ["a", "a", "b", "c", "c"], "value": [0.1, 0.2, 0.7, None, 1e6]})
    found = dict(rounded_sums(frame, "value", ["key"]).iter_rows())
    assert found == {"a": math.fsum([0.1, 0.2]), "b": 0.7, "c": 1e6}
    assert rounded_sums(frame.with_columns(pl.lit(None, pl.Float64).alias("value")), "value", ["key"]).is_empty()


def test_zeros_and_tiny_values_beside_large_ones_stay() -> None:
    assert sums([0.0, 0.0]) == [0.0]
    assert sums([1e6, 1e-12, 1e-12, -1e6]) == [2e-12]
