"""Paths into JSON: one value or none, whatever the document is."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.jsonpath import MISSING, parse_path

MESSAGE = {
    "gw": "g1",
    "data": [{"ua": 1, "odd.name": 2, "电压": 3}, {"ua": None}],
    "params": [{"id": "Ua", "value": 5}, {"id": 7, "value": 6}, "stray", {"id": True, "value": 8}],
}
ITEM = MESSAGE["data"][0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("$.gw", "g1"),
        ("gw", MISSING),
        ("ua", 1),
        ("@.ua", 1),
        ("['odd.name']", 2),
        ("@['odd.name']", 2),
        ("电压", 3),
        ("$.data[1].ua", None),
        ("$.data[2].ua", MISSING),
        ("$.data.ua", MISSING),
        ("$.gw[0]", MISSING),
        ("$.params[?@.id=='Ua'].value", 5),
        ("$.params[?@.id == 7].value", 6),
        ("$.params[?@.id==1].value", MISSING),
        ("$.params[?@.id=='x'].value", MISSING),
        ("$", MESSAGE),
        ("@", ITEM),
    ],
)
def test_what_is_found(text: str, found: object) -> None:
    assert parse_path(text).find(MESSAGE, ITEM) == found


@pytest.mark.parametrize(
    "text", ["", ".", "$.", "a..b", "$..a", "a[*]", "a[-1]", "a[01]", "a.", "a b", "$a", "a['x", "a[?@.b]"]
)
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|empty"):
        parse_path(text)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(document=JSON, text=st.text(max_size=30))
def test_any_text_is_a_path_or_is_refused_and_any_document_can_be_asked(document: object, text: str) -> None:
    try:
        path = parse_path(text)
    except ValueError:
        return
    path.find(document, document)


@given(document=JSON, data=st.data())
def test_whatever_is_in_a_document_has_a_path(document: object, data: st.DataObject) -> None:
    text, here = "$", document
    while data.draw(st.booleans()):
        if isinstance(here, dict):
            names = [name for name in here if name and not set(name) & {"'", "\\"}]
            if not names:
                break
            name = data.draw(st.sampled_from(names))
            text, here = f"{text}['{name}']", here[name]
        elif isinstance(here, list) and here:
            index = data.draw(st.integers(0, len(here) - 1))
            text, here = f"{text}[{index}]", here[index]
        else:
            break
    assert orjson.dumps(parse_path(text).find(document, None)) == orjson.dumps(here)
