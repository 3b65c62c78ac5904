"""Passwords are hashed slowly, compared always, and never short."""

import pytest

from libs.common.errors import InvalidInput
from services.gateway import passwords


async def test_the_right_password_matches_and_a_wrong_one_does_not() -> None:
    stored = await passwords.hash_password("correct horse battery")
    assert stored.startswith("$argon2id$")
    assert await passwords.matches("correct horse battery", stored)
    assert not await passwords.matches("correct horse batterY", stored)


async def test_nobody_matches_nothing() -> None:
    assert not await passwords.matches("whatever it is", None)


@pytest.mark.parametrize("password", ["", "short", "x" * 257])
async def test_short_and_endless_passwords_are_refused(password: str) -> None:
    with pytest.raises(InvalidInput, match="12 to 256"):
        await passwords.hash_password(password)
