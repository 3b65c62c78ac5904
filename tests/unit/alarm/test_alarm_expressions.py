"""Formulas over points: what they give, what they leave open, and what is refused and how it is said."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.alarm.domain.expressions import MAX_LENGTH, MAX_NODES, Expression, InvalidExpression, parse

KNOWN = ("a", "b", "c")
NAN = math.nan


def value(text: str, **points: float) -> float:
    columns = {name: np.array([points.get(name, NAN)]) for name in KNOWN}
    return float(parse(text, KNOWN).values(columns, 1)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c", 14.0),
        ("(a + b) * c", 20.0),
        ("-a + +b", 1.0),
        ("a / b", 2 / 3),
        ("abs(a - c)", 2.0),
        ("sqrt(c)", 2.0),
        ("min(a, b, c) + max(a, b, c)", 6.0),
        ("a < b", 1.0),
        ("a >= b", 0.0),
        ("a == 2 and b != 3", 0.0),
        ("a == 2 or b != 3", 1.0),
        ("not a == 2", 0.0),
        ("if_else(a > b, a, b) * 10", 30.0),
        ("1e2 * a", 200.0),
    ],
)
def test_a_formula_gives_what_it_says(text: str, expected: float) -> None:
    assert value(text, a=2.0, b=3.0, c=4.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["a + b", "a / 0", "0 / (a - a)", "sqrt(-a)", "max(a, b)", "a < b", "not b", "if_else(b > 0, a, a)"]
)
def test_what_cannot_be_known_is_open(text: str) -> None:
    assert math.isnan(value(text, a=2.0))


@pytest.mark.parametrize(("text", "expected"), [("a > 5 and b > 0", 0.0), ("a > 1 or b > 0", 1.0)])
def test_what_an_unknown_value_cannot_change_is_known(text: str, expected: float) -> None:
    assert value(text, a=2.0) == expected


@pytest.mark.parametrize(
    ("text", "expected", "found"),
    [
        ("", "a formula", "''"),
        ("a +", "a formula", "'a +'"),
        ("d + a", "the name of a numeric point", "d"),
        ("1 + 2", "at least one point", "'1 + 2'"),
        ("a ** 9999", "numbers, points", "a ** 9999"),
        ("a % b", "numbers, points", "a % b"),
        ("a < b < c", "numbers, points", "a < b < c"),
        ("a if b else c", "numbers, points", "a if b else c"),
        ("a.real", "numbers, points", "a.real"),
        ("a[0]", "numbers, points", "a[0]"),
        ("'a' + a", "numbers, points", "'a'"),
        ("True + a", "numbers, points", "True"),
        ("[x for x in (a,)]", "numbers, points", "[x for x in (a,)]"),
        ("(lambda: a)()", "numbers, points", "(lambda: a)()"),
        ("__import__('os').system('true')", "numbers, points", "__import__('os').system('true')"),
        ("open(a)", "numbers, points", "open(a)"),
        ("abs(a, b)", "abs with 1 arguments", "2 arguments"),
        ("min(a)", "min with 2 to 10 arguments", "1 arguments"),
        ("min(*a)", "min with 2 to 10 arguments", "1 arguments"),
        ("max(a, b, key=c)", "numbers, points", "max(a, b, key=c)"),
        ("(a := b)", "numbers, points", "a := b"),
        ("a + 1e999", "a finite number", "1e999"),
        ("a" + " + a" * MAX_NODES, f"at most {MAX_NODES} terms", f"{2 * MAX_NODES + 1} terms"),
        ("a" * (MAX_LENGTH + 1), f"at most {MAX_LENGTH} characters", f"{MAX_LENGTH + 1} characters"),
        ("(" * 90 + "a" + ")" * 90 + "+" + "-" * 40 + "a", "at most 20 levels", None),
    ],
)
def test_what_is_no_formula_is_refused_in_both_languages(text: str, expected: str, found: str | None) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse(text, KNOWN)
    assert caught.value.expected.startswith(expected)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in caught.value.expected_zh)
    if found is not None:
        assert caught.value.found.startswith(found)


formulas = st.recursive(
    st.one_of(st.sampled_from(KNOWN), st.integers(0, 9).map(str)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "<", ">=", "=="]), inner).map(
            lambda t: f"({' '.join(t)})"
        ),
        st.tuples(inner, inner).map(lambda t: f"max({t[0]}, {t[1]})"),
    ),
    max_leaves=8,
)
numbers = st.one_of(st.just(NAN), st.integers(-5, 5).map(float))


@settings(max_examples=100, deadline=None)
@given(formulas, st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5))
def test_a_column_gives_what_python_gives_row_by_row(text: str, rows: list[tuple[float, float, float]]) -> None:
    try:
        formula = parse(text, KNOWN)
    except InvalidExpression:
        assume(False)
    columns = {name: np.array([row[place] for row in rows]) for place, name in enumerate(KNOWN)}
    found = formula.values(columns, len(rows)).tolist()
    for row, got in zip(rows, found, strict=True):
        assert got == pytest.approx(slow(formula, dict(zip(KNOWN, row, strict=True))), nan_ok=True)


def slow(formula: Expression, points: dict[str, float]) -> float:
    """The test's own text through Python itself; whatever it cannot say is open."""
    if any(math.isnan(points[name]) for name in formula.points):
        return NAN
    try:
        return float(eval(formula.text, {"__builtins__": {}}, {**points, "max": max}))  # our own text
    except ZeroDivisionError:
        return NAN


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_formula_or_refused(text: str) -> None:
    try:
        parse(text, KNOWN)
    except InvalidExpression:
        pass
