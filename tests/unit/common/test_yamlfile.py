"""YAML without guessing, and with the line of everything."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from libs.common.errors import InvalidFile
from libs.common.yamlfile import MAX_BYTES, field_name, parse_yaml, validate


class Part(BaseModel):
    code: str
    weight: float = 1.0


class Thing(BaseModel):
    name: str
    size: int = Field(default=0, ge=0)
    parts: list[Part] = []
    labels: dict[str, str] = {}


def data(text: str) -> Any:
    return parse_yaml(text, "f.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("0x1F", 31),
        ("0x0800", 0x0800),
        ("007", "007"),
        ("000012345678", "000012345678"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("0o17", "0o17"),
        ("1.10", 1.1),
        ("1e-05", 1e-05),
        (".5", 0.5),
        ("-2.", -2.0),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("true", True),
        ("false", False),
        ("yes", "yes"),
        ("on", "on"),
        ("no", "no"),
        ("null", None),
        ("~", None),
        ("", None),
        ("2026-01-01", "2026-01-01"),
        ('"12"', "12"),
        ("'true'", "true"),
        ("''", ""),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = data(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_every_value_has_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", "f.yaml")
    assert document.line(("a",)) == 1
    assert document.line(("b",)) == 2
    assert document.line(("b", 0)) == 3
    assert document.line(("b", 1, "c")) == 4
    assert document.line(("b", 1, "d")) == 5
    assert document.line(("b", 1, "missing", 7)) == 4
    assert document.line(("nothing",)) == 1
    assert field_name(("b", 1, "d")) == "b[1].d"
    assert field_name(()) == "document"


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("a: 1\na: 2\n", 2, "'a' once; it stands on line 1 too"),
        ("a: [1, 2\n", 2, "YAML"),
        ("a: b: c\n", 1, "YAML"),
        ("a: &x 1\n", 1, "without anchors"),
        ("a: *x\n", 1, "without anchors"),
        ("a: !!str 1\n", 1, "without anchors"),
        ("a: !x 1\n", 1, "without anchors"),
        ("? [a]\n: 1\n", 1, "a plain key"),
        ("a: 1\n---\nb: 2\n", 2, "YAML"),
        ("a: \x01\n", None, "YAML"),
        ("a: " + "[" * 60 + "]" * 60, 1, "at most 40 levels"),
        ("[" * 1_000_000, 1, "at most 40 levels"),
    ],
    ids=[
        "duplicate",
        "open",
        "nested",
        "anchor",
        "alias",
        "tag",
        "own tag",
        "key",
        "two",
        "control",
        "deep",
        "bottomless",
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, line: int | None, expected: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_yaml(text, "f.yaml")
    assert caught.value.problems[0].line == line
    assert expected in caught.value.problems[0].expected
    assert "f.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["a:\n\t- b: 1\n", "a:\n  - b: 1\n\t- c: 2\n", "a:\n  \tb: 1\n"])
def test_tab_in_the_indentation_is_said_to_be_one(text: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        parse_yaml(text, "f.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.expected) == (text.count("\n"), "spaces before the field, not tabs")
    assert "制表符" in str(caught.value.message_zh)


def test_oversize_document_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidFile, match="at most"):
        parse_yaml("a" * (MAX_BYTES + 1), "f.yaml")


def test_empty_document_is_nothing() -> None:
    assert data("") is None
    assert data("# only a comment\n") is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(InvalidFile):
        parse_yaml(text, "f.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text("abcABC 0123", max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=4), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_json_is_read_as_json(value: object) -> None:
    assert data(json.dumps({"v": value})) == {"v": value}


class TestValidate:
    def test_text_is_taken_as_it_was_written(self) -> None:
        text = "name: 1.10\nparts:\n  - {code: 0x1F}\n  - {code: 12}\nlabels: {a: 1e3}\n"
        thing, problems = validate(Thing, parse_yaml(text, "f"))
        assert problems == []
        assert thing == Thing(name="1.10", parts=[Part(code="0x1F"), Part(code="12")], labels={"a": "1e3"})

    @pytest.mark.parametrize("text", ["name: true", "name: null", "name: [a]", "name: {}"])
    def test_what_is_no_text_is_not_made_one(self, text: str) -> None:
        thing, problems = validate(Thing, parse_yaml(text, "f"))
        assert thing is None
        assert [problem.field for problem in problems] == ["name"]

    def test_every_problem_has_line_field_and_expectation(self) -> None:
        text = "size: -1\nparts:\n  - {code: a, weigth: 2}\n  - {weight: heavy}\nextra: 1\n"
        thing, problems = validate(Thing, parse_yaml(text, "f"))
        assert thing is None
        assert sorted((problem.line, problem.field, problem.expected) for problem in problems) == [
            (1, "name", "a value, the field is required"),
            (1, "size", "greater than or equal to 0"),
            (3, "parts[0].weigth", "weight, there is no such field"),
            (4, "parts[1].code", "a value, the field is required"),
            (4, "parts[1].weight", "a number"),
            (5, "extra", "one of the fields labels, name, parts, size"),
        ]

    def test_part_of_a_document_is_judged_with_its_place_and_defaults(self) -> None:
        document = parse_yaml("things:\n  - size: 3\n  - {size: x}\n", "f")
        thing, problems = validate(Thing, document, ("things", 0), defaults={"name": "given", "size": 9})
        assert (thing, problems) == (Thing(name="given", size=3), [])
        _, problems = validate(Thing, document, ("things", 1), defaults={"name": "given"})
        assert [(problem.line, problem.field) for problem in problems] == [(3, "things[1].size")]
