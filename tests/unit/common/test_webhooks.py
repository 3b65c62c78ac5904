"""Signatures as Standard Webhooks says, by its own example and by a few lines that know only HMAC."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.webhooks import PREFIX, WrongSecret, is_id, key_of, new_secret, signed_headers


def test_the_example_of_the_specification() -> None:
    """The vector of github.com/standard-webhooks/standard-webhooks, libraries, test of sign."""
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        datetime.fromtimestamp(1614265330, UTC),
        b'{"test": 2432232314}',
        [key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(max_size=200), st.lists(st.binary(min_size=1, max_size=80), max_size=3), st.integers(-12, 14))
def test_each_key_signs_id_time_and_body_in_whatever_zone(text: str, keys: list[bytes], offset_h: int) -> None:
    at = datetime(2026, 3, 8, 14, 2, 11, 500_000, tzinfo=timezone(timedelta(hours=offset_h)))
    body = text.encode("utf-8", "surrogatepass") if text.isprintable() else b"{}"
    headers = signed_headers("e-1", at, body, keys)
    stamp = str(int(at.timestamp()))
    wanted = [
        "v1," + base64.b64encode(hmac.digest(key, f"e-1.{stamp}.".encode() + body, hashlib.sha256)).decode()
        for key in keys
    ]
    assert headers["webhook-timestamp"] == stamp
    assert headers.get("webhook-signature", "").split() == wanted


def test_a_new_secret_is_long_and_of_its_own() -> None:
    first, second = new_secret(), new_secret()
    assert first != second
    assert first.startswith(PREFIX)
    assert len(key_of(first)) == 32


@pytest.mark.parametrize("secret", ["whsec_", "whsec_@@@", "whsec_abc", ""])
def test_what_is_no_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(WrongSecret) as caught:
        key_of(secret)
    assert "@@@" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "can"),
    [("0192f3c0-5a7e", True), ("a:1", True), ("a.b", False), ("", False), ("x\r\ny", False), ("站", False)],
)
def test_what_can_be_an_id(text: str, *, can: bool) -> None:
    assert is_id(text) is can
