"""Nothing secret is left of a text or a fact, and what is not secret stays readable."""

import math
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from libs.common.redact import _SHAPES, HIDDEN, TEXT_MAX, presentable, redact

SECRET = "hunter2-hunter2"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ3YW5nIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://wattring:{SECRET}@db:5432/wattring", "postgresql://wattring:***@db:5432/wattring"),
        (f"postgresql://u:{SECRET}@@db/x", "postgresql://u:***@db/x"),
        (f"amqp://:{SECRET}@h and ftp://a:{SECRET}@k/f", "amqp://:***@h and ftp://a:***@k/f"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"authorization=Basic {SECRET}", "authorization=***"),
        (f"{{'authorization': 'Bearer {SECRET}', 'accept': '*/*'}}", "{'authorization': ***, 'accept': '*/*'}"),
        (f"answered with bearer {SECRET}.", "answered with bearer ***"),
        (f"the token {JWT} has expired", "the token *** has expired"),
        (f"Cookie: session={SECRET}; lang=zh\nnext line", "Cookie: ***\nnext line"),
        (f"Set-Cookie: session={SECRET}", "Set-Cookie: ***"),
        (f"password={SECRET} host=db", "password=*** host=db"),
        (f"?user=wang&password={SECRET}&lang=zh", "?user=wang&password=***&lang=zh"),
        (f'{{"passwd": "{SECRET}", "user": "wang"}}', '{"passwd": ***, "user": "wang"}'),
        (f'{{"password": "a\\"{SECRET}", "user": "wang"}}', '{"password": ***, "user": "wang"}'),
        (f'"{{\\"access_token\\":\\"{SECRET}\\",\\"n\\":1}}"', '"{\\"access_token\\":***,\\"n\\":1}"'),
        (f"first_password='{SECRET} x' user='wang'", "first_password=*** user='wang'"),
        (f"wrong password: {SECRET}, try again", "wrong password: ***, try again"),
        (f"WATTRING_EXPORT__SECRET_KEY={SECRET}", "WATTRING_EXPORT__SECRET_KEY=***"),
        (f"<UserName>su</UserName><PaSCword>{SECRET}</PaSCword>", "<UserName>su</UserName><PaSCword>***</PaSCword>"),
        (f'<m:Password x="1">{SECRET}</m:Password>', '<m:Password x="1">***</m:Password>'),
        (f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\nrest", "***\nrest"),
        (f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}", "***"),
    ],
)
def test_secrets_in_a_text_are_hidden(text: str, shown: str) -> None:
    assert SECRET not in redact(text)
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "WATTRING_GATEWAY__FIRST_PASSWORD: String should have at least 12 characters",
        "WATTRING_EXPORT__SECRET_KEY: there is no such setting",
        "the token is not valid: Signature verification failed",
        "cannot connect to http://control:8000/direct/v1/on?by=wang@example.org",
        "unix:/run/wattring/control.sock does not answer",
        "database db:5432/wattring: password authentication failed for user wattring",
        "3 tokens left, 2 cookies baked, the secretary is away",
        "device d-1 passed at 2026-03-01T04:00:00Z",
        "不可用:数据库 db:5432",
    ],
)
def test_what_is_not_secret_stays(text: str) -> None:
    assert redact(text) == text


@given(
    st.sampled_from(["postgresql", "https", "kafka", "ftp"]),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=10),
    st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8, max_size=30).filter(
        lambda p: not p[0].isdigit()
    ),
)
def test_a_password_in_a_url_never_survives(scheme: str, user: str, password: str) -> None:
    shown = redact(f"cannot reach {scheme}://{user}:{password}@db.example:5432/name today")
    assert shown == f"cannot reach {scheme}://{user}:***@db.example:5432/name today"


@given(st.text())
def test_any_text_can_be_looked_at_and_a_second_look_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_facts_under_the_name_of_a_secret_are_hidden_at_any_depth() -> None:
    facts = {
        "user": "wang",
        "password": SECRET,
        "request": {"headers": {"Authorization": f"Basic {SECRET}", "Accept": "*/*"}, "apiKey": SECRET},
        "pairs": [("cookie", SECRET), (b"authorization", SECRET), ("accept", "*/*")],
        "credentials": {"user": "su", "word": SECRET},
        "token_hash": SECRET,
        "key": SecretStr(SECRET),
    }
    shown = presentable(facts)
    assert SECRET not in orjson.dumps(shown).decode()
    assert shown["user"] == "wang"
    assert shown["request"]["headers"] == {"Authorization": HIDDEN, "Accept": "*/*"}
    assert shown["pairs"] == [["cookie", HIDDEN], ["authorization", HIDDEN], ["accept", "*/*"]]


def test_a_count_or_a_switch_under_such_a_name_stays() -> None:
    facts = {"tokens": 5, "secure_cookie": True, "password": None, "secret": ""}
    assert presentable(facts) == facts


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"\x01\x02", "<2 bytes>"),
        (2**70, str(2**70)),
        (math.inf, "inf"),
        (datetime(2026, 3, 1, tzinfo=UTC), "2026-03-01T00:00:00+00:00"),
        (Decimal("1.50"), "1.50"),
        (ValueError("password=abc"), "password=***"),
        ("caf\udce9", "caf?"),
        ((1, 2, 3), [1, 2, 3]),
        ({1: "a"}, {"1": "a"}),
    ],
)
def test_whatever_it_is_json_can_carry_it(value: object, shown: object) -> None:
    assert presentable(value) == shown
    orjson.dumps(presentable(value))


def test_a_payload_is_cut() -> None:
    shown = presentable("x" * (TEXT_MAX + 7))
    assert shown.startswith("x" * TEXT_MAX)
    assert shown.endswith("(7 more)")


def test_a_cut_does_not_bare_half_a_secret() -> None:
    shown = presentable("x" * (TEXT_MAX - 20) + f" postgresql://u:{SECRET}@db/name")
    assert SECRET[:4] not in shown


def test_a_structure_that_contains_itself_ends() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    orjson.dumps(presentable(loop))


PIECES = st.sampled_from(
    ["://", "u:", "@", "ey", "eyJ", "eyK.", "authorization", "Cookie", "=", ":", "bearer ", "BEARER\t", "password",
     "<pwd>", "token", "-----BEGIN PRIVATE KEY-----", '"', "'", " ", "abcdefgh12", "\u212a", "\u017f"]
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_the_short_way_out_hides_no_less(text: str) -> None:
    slowly = text
    for shape, instead in _SHAPES:
        slowly = shape.sub(instead, slowly)
    assert redact(text) == slowly
