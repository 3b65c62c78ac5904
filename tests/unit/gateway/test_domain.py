"""Roles are sets of scopes; what is not given is denied."""

import pytest

from libs.common.tokens import Principal
from services.gateway.domain import SCOPES, SERVICE_OF, SERVICES, Role, Throttle, scopes_of


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
def test_no_ordinary_role_administers(role: Role) -> None:
    assert not Principal("user:x", "user", SCOPES[role]).may("gateway:admin")


def test_only_operators_and_administrators_switch() -> None:
    may = {role for role in Role if Principal("user:x", "user", SCOPES[role]).may("control:switch")}
    assert may == {Role.OPERATOR, Role.ADMIN}


def test_roles_add_up() -> None:
    both = scopes_of([Role.ENGINEER, Role.OPERATOR])
    assert {"ingest:write", "control:switch"} <= both


def test_every_path_has_one_owner() -> None:
    assert set(SERVICE_OF.values()) == set(SERVICES)


def test_the_throttle_closes_at_its_limit() -> None:
    throttle = Throttle(failures=3)
    assert [throttle.closed(n) for n in (2, 3)] == [False, True]
