"""What is said of a database that cannot be reached."""

import errno
import os
import socket

import asyncpg
import pytest

from libs.common.db import not_reached, place_of

GIVEN = "postgresql://user:hunter2@db.example:6543/energy"
EMBEDDED = "postgresql://user:hunter2@/energy?host=%2Fdata%2Frun"


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("exc", "reason", "reason_zh"),
    [
        (os_error(errno.ECONNREFUSED), "Connection refused; check DATABASE_URL", "连接被拒绝;请检查 DATABASE_URL"),
        (TimeoutError(), "no answer within 5 s; check DATABASE_URL", "5 秒内无应答;请检查 DATABASE_URL"),
        (os_error(errno.ETIMEDOUT), "Connection timed out; check DATABASE_URL", "连接超时;请检查 DATABASE_URL"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "the host cannot be looked up (Name or service not known); check DATABASE_URL",
            "无法解析主机名;请检查 DATABASE_URL",
        ),
        (
            asyncpg.InvalidPasswordError("password authentication failed"),
            "password authentication failed; check DATABASE_URL",
            "password authentication failed;请检查 DATABASE_URL",
        ),
        (
            asyncpg.CannotConnectNowError("the database system is starting up"),
            "the database system is starting up",
            "the database system is starting up",
        ),
    ],
)
def test_an_absent_database_is_named_with_address_and_setting(exc: BaseException, reason: str, reason_zh: str) -> None:
    assert not_reached(GIVEN, exc, waited_s=5.0).both == (
        f"database db.example:6543/energy: {reason}",
        f"数据库 db.example:6543/energy:{reason_zh}",
    )


def test_the_embedded_database_is_no_matter_of_a_setting() -> None:
    refused = not_reached(EMBEDDED, os_error(errno.ECONNREFUSED))
    assert refused.message == "database local socket:5432/energy: Connection refused"


def test_a_port_that_is_left_out_is_shown_too() -> None:
    assert place_of("postgresql://user:hunter2@db.example/energy") == "db.example:5432/energy"
