"""Virtual meters: signed sums, shares, losses; what is unknown stays unknown, and nothing is a part of itself."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.intervals import STEP_S, Grade, Intervals
from services.carbon.domain.levels.cover import Term as Cover
from services.carbon.domain.levels.energy import node_intervals
from services.carbon.domain.levels.virtual import virtual_by_site, virtual_intervals
from services.carbon.domain.virtual import (
    DEPTH_MAX,
    Term,
    VirtualMeter,
    WrongVirtualMeter,
    check,
    circuits_behind,
    compute,
    total,
)
from tests.unit.carbon.levels_data import QUARTER, START, frame, measured
from tests.unit.carbon.memory_books import SOME

NAN = float("nan")


def intervals(*energy: float, grade: Grade = Grade.MEASURED, lower: tuple[int, ...] = ()) -> Intervals:
    known = np.isfinite(np.array(energy))
    size = len(energy)
    return Intervals(
        start=STEP_S * np.arange(size, dtype=np.float64),
        energy_kwh=np.array(energy),
        grade=np.where(known, np.int8(grade), np.int8(Grade.MISSING)).astype(np.int8),
        lower_bound=np.isin(np.arange(size), lower),
        step_s=STEP_S,
    )


def meters(*defined: VirtualMeter) -> dict[str, VirtualMeter]:
    return {one.id: one for one in defined}


def signed(name: str, *terms: tuple[str, float], **facts: object) -> VirtualMeter:
    return VirtualMeter(name, [Term(child, factor) for child, factor in terms], **facts)  # type: ignore[arg-type]


def test_a_signed_sum_with_a_share_and_a_loss() -> None:
    # A tenant has a third of a shared meter, behind a transformer that loses 0.4 kW and 2 % of what it carries.
    defined = meters(
        signed("tenant", ("own", 1.0), ("shared", 1 / 3), ("sublet", -1.0)),
        signed("bought", ("tenant", 1.02), constant_kw=0.4),
    )
    circuits = {"own": intervals(10.0, 8.0), "shared": intervals(3.0, 6.0), "sublet": intervals(1.0, 0.0)}
    assert compute("tenant", defined, circuits.__getitem__).energy_kwh.tolist() == pytest.approx([10.0, 10.0])
    assert compute("bought", defined, circuits.__getitem__).energy_kwh.tolist() == pytest.approx([10.3, 10.3])
    assert circuits_behind("bought", defined) == pytest.approx({"own": 1.02, "shared": 0.34, "sublet": -1.02})


def test_an_unknown_part_leaves_the_whole_unknown() -> None:
    defined = meters(signed("sum", ("a", 1.0), ("b", 1.0)), signed("outer", ("sum", 1.0), ("a", 1.0)))
    circuits = {"a": intervals(1.0, 2.0), "b": intervals(5.0, NAN)}
    found = compute("outer", defined, circuits.__getitem__)
    assert found.energy_kwh.tolist() == pytest.approx([7.0, NAN], nan_ok=True)
    assert found.grade.tolist() == [Grade.MEASURED, Grade.MISSING]
    assert found.present_share.tolist() == pytest.approx([1.0, 0.75])
    told = total(found)
    assert told.energy_kwh == pytest.approx(7.0)
    assert (told.known_share, told.measured_share) == (0.5, 0.5)


def test_a_partial_sum_tells_how_much_of_it_is_there() -> None:
    defined = meters(signed("sum", ("a", 1.0), ("b", 1.0), ("c", -2.0), allow_partial=True))
    circuits = {"a": intervals(4.0, NAN), "b": intervals(NAN, NAN), "c": intervals(0.5, NAN)}
    found = compute("sum", defined, circuits.__getitem__)
    assert found.energy_kwh.tolist() == pytest.approx([3.0, NAN], nan_ok=True)
    assert found.present_share.tolist() == pytest.approx([0.75, 0.0])


def test_the_grade_is_the_worst_and_a_bound_turns_over_where_it_is_taken_off() -> None:
    defined = meters(signed("rest", ("feed", 1.0), ("part", -1.0)), signed("back", ("feed", 1.0), ("rest", -1.0)))
    circuits = {
        "feed": intervals(9.0, 9.0, lower=(0,)),
        "part": intervals(4.0, 4.0, grade=Grade.ALLOCATED, lower=(1,)),
    }
    rest = compute("rest", defined, circuits.__getitem__)
    assert rest.grade.tolist() == [Grade.ALLOCATED] * 2
    assert (rest.lower_bound.tolist(), rest.upper_bound.tolist()) == ([True, False], [False, True])
    back = compute("back", defined, circuits.__getitem__)
    assert (back.lower_bound.tolist(), back.upper_bound.tolist()) == ([True, True], [True, False])


def test_a_difference_within_the_accuracy_of_meters_stays_negative() -> None:
    defined = meters(signed("loss", ("in", 1.0), ("out", -1.0)))
    found = compute("loss", defined, {"in": intervals(5.0), "out": intervals(5.01)}.__getitem__)
    assert found.energy_kwh.tolist() == pytest.approx([-0.01])


@pytest.mark.parametrize(
    "defined",
    [
        meters(signed("a", ("a", 1.0))),
        meters(signed("a", ("b", 1.0)), signed("b", ("c", 1.0), ("x", 1.0)), signed("c", ("x", 1.0), ("a", -1.0))),
    ],
)
def test_no_virtual_meter_is_a_part_of_itself(defined: dict[str, VirtualMeter]) -> None:
    with pytest.raises(WrongVirtualMeter, match="part of itself"):
        check(defined)


def test_the_same_child_by_two_ways_is_no_cycle() -> None:
    defined = meters(signed("top", ("b", 1.0), ("c", 1.0)), signed("b", ("d", 0.5)), signed("c", ("d", 0.5)))
    assert circuits_behind("top", defined) == {"d": 1.0}


def test_nesting_ends_somewhere() -> None:
    chain = meters(*(signed(f"v{i}", (f"v{i + 1}", 1.0)) for i in range(DEPTH_MAX + 1)))
    with pytest.raises(WrongVirtualMeter, match="levels"):
        check(chain)
    del chain["v0"]
    assert check(chain)[-1] == "v1"


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ([], "1 to 500"),
        ([Term("a", 0.0)], "other than 0"),
        ([Term("a", NAN)], "other than 0"),
        ([Term("a", 1.0), Term("a", -1.0)], "twice"),
    ],
)
def test_a_definition_that_means_nothing_is_refused(terms: list[Term], told: str) -> None:
    with pytest.raises(WrongVirtualMeter, match=told):
        VirtualMeter("v", terms)


def test_circuits_of_different_spans_are_refused() -> None:
    defined = meters(signed("sum", ("a", 1.0), ("b", 1.0)))
    with pytest.raises(WrongVirtualMeter, match="same span"):
        compute("sum", defined, {"a": intervals(1.0), "b": intervals(1.0, 2.0)}.__getitem__)


@st.composite
def definitions(draw: st.DrawFn) -> dict[str, VirtualMeter]:
    """Return nested definitions without cycles: each refers to circuits and to those after it."""
    count = draw(st.integers(1, 6))
    found = {}
    for i in range(count):
        children = [f"c{j}" for j in range(4)] + [f"v{j}" for j in range(i + 1, count)]
        chosen = draw(st.lists(st.sampled_from(children), min_size=1, max_size=4, unique=True))
        factors = draw(st.lists(st.sampled_from([1.0, -1.0, 0.25, 1.05]), min_size=len(chosen), max_size=len(chosen)))
        found[f"v{i}"] = signed(f"v{i}", *zip(chosen, factors, strict=True))
    return found


@SOME
@given(definitions(), st.lists(st.lists(st.floats(0.0, 1e4), min_size=3, max_size=3), min_size=4, max_size=4))
def test_a_nested_sum_is_the_sum_over_its_circuits(
    defined: dict[str, VirtualMeter], energies: list[list[float]]
) -> None:
    circuits = {f"c{j}": intervals(*energy) for j, energy in enumerate(energies)}
    found = compute("v0", defined, circuits.__getitem__)
    expected = sum(factor * circuits[name].energy_kwh for name, factor in circuits_behind("v0", defined).items())
    np.testing.assert_allclose(found.energy_kwh, expected, rtol=1e-9, atol=1e-6)
    assert np.all(found.grade == Grade.MEASURED)
    np.testing.assert_allclose(found.present_share, 1.0)


KNOWN = st.floats(0.0, 1e3) | st.none()


@settings(max_examples=15)  # each makes frames
@given(
    st.lists(KNOWN, min_size=1, max_size=6), st.lists(KNOWN, min_size=1, max_size=6), st.floats(-2.0, 2.0),
    st.booleans(), st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_the_parts_of_its_sites_add_up_to_the_meter(
    first: list[float | None], second: list[float | None], factor: float, partial: bool, constant_kw: float
) -> None:
    weight = factor or 1.0
    defined = meters(
        signed("inner", ("b", weight), allow_partial=partial),
        signed("whole", ("a", 1.0), ("inner", -0.5), constant_kw=constant_kw, allow_partial=partial),
    )
    places = (("a", "s1"), ("b", "s2"))
    terms = [Cover(CircuitId(circuit), SiteId(site), START, START + 8 * QUARTER) for circuit, site in places]
    found = node_intervals(frame([*measured("a", first), *measured("b", second)]), terms)
    span = (START, START + 8 * QUARTER)
    whole = virtual_intervals(found, "whole", defined, *span).filter(pl.col("energy_kwh").is_not_null())
    parts = virtual_by_site(found, "whole", defined, *span)
    sums = dict(parts.group_by("start").agg(pl.col("energy_kwh").sum()).iter_rows())
    assert sums.keys() == set(whole["start"].to_list())
    for at, energy in whole.select("start", "energy_kwh").iter_rows():
        assert sums[at] == pytest.approx(energy, abs=1e-9)
    if not constant_kw:
        energies = {START + number * QUARTER: energy or 0.0 for number, energy in enumerate(first)}
        own = parts.filter(pl.col("site_id") == "s1").select("start", "energy_kwh")
        assert all(energy == pytest.approx(energies.get(at, 0.0)) for at, energy in own.iter_rows())


def test_a_meter_of_which_nothing_is_known_has_no_parts() -> None:
    defined = meters(signed("whole", ("a", 1.0)))
    nothing = node_intervals(frame([]), [])
    assert virtual_by_site(nothing, "whole", defined, START, START + QUARTER).is_empty()
