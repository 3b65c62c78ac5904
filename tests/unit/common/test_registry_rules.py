"""What an entity must be besides what its model says."""

from datetime import UTC, datetime
from typing import Any

import pytest

from libs.common.contracts.registry import Device, Line, Site
from libs.common.registry.rules import MAX_ENTITY_BYTES, broken_rules, split_host_port

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def site(**facts: Any) -> Site:
    given = {"id": "s", "code": "1", "name": "Site", "kind": "idc", "valid_from": SINCE, "version": 1, **facts}
    return Site.model_validate({"changed_by": "x", **given})


def line(kind: str, endpoint: str) -> Line:
    given = {"id": "l", "name": "Line", "kind": kind, "endpoint": endpoint, "valid_from": SINCE, "version": 1}
    return Line.model_validate({"changed_by": "x", **given})


def test_ordinary_entity_breaks_none() -> None:
    assert list(broken_rules(site(name_zh="站点", persons=12, tags=["a", "b"]))) == []


@pytest.mark.parametrize("facts", [{"name_zh": "half \ud800"}, {"persons": 10**30}], ids=["surrogate", "number"])
def test_what_json_cannot_carry_is_refused(facts: dict[str, Any]) -> None:
    (broken,) = broken_rules(site(**facts))
    assert broken.expected == "what can be written as JSON"


def test_entity_that_would_fill_the_topic_is_refused() -> None:
    (broken,) = broken_rules(site(address="x" * MAX_ENTITY_BYTES))
    assert broken.expected == f"at most {MAX_ENTITY_BYTES} bytes as JSON"


@pytest.mark.parametrize("kind", ["tcp", "rtu_over_tcp"])
@pytest.mark.parametrize("endpoint", ["10.1.3.20:502", "meter.example", "[::1]:502", "dtu_7.local:1502"])
def test_address_that_can_be_dialled(kind: str, endpoint: str) -> None:
    assert list(broken_rules(line(kind, endpoint))) == []


@pytest.mark.parametrize(
    "endpoint",
    ["", ":502", "10.1.3.20:0", "10.1.3.20:65536", "host:five", "192.168..1:502", "x" * 64 + ":502",
     "http://10.1.3.20:502", "10.1.3.20 :502", "user@host:502", "host:\uff15\uff10\uff12"],
)  # fmt: skip
def test_address_that_cannot(endpoint: str) -> None:
    (broken,) = broken_rules(line("tcp", endpoint))
    assert (broken.field, broken.found) == ("endpoint", endpoint)


def test_other_kinds_of_lines_have_other_addresses() -> None:
    assert list(broken_rules(line("serial", "/dev/ttyS0"))) == []
    assert list(broken_rules(line("mqtt", "mqtts://broker/topic"))) == []


def test_host_and_port() -> None:
    assert split_host_port("10.1.3.20:1502") == ("10.1.3.20", 1502)
    assert split_host_port("[fe80::1]:502") == ("fe80::1", 502)
    assert split_host_port("meter", 502) == ("meter", 502)
    with pytest.raises(ValueError, match="no port"):
        split_host_port("meter")


@pytest.mark.parametrize(("field", "value"), [("period_s", 1e308), ("period_s", 604_801), ("command_latency_s", 1e9)])
def test_time_that_cannot_be_meant_is_refused(field: str, value: float) -> None:
    given = {"id": "d", "name": "Meter", "kind": "meter_3p", "site": "s", "valid_from": SINCE, "version": 1}
    device = Device.model_validate({"changed_by": "x", **given, field: value})
    (broken,) = broken_rules(device)
    assert broken.field == field
    assert list(broken_rules(device.model_copy(update={field: 604_800.0}))) == []


@pytest.mark.parametrize(
    ("kind", "endpoint", "broken"),
    [
        ("aep", "https://ag-api.ctwing.cn", False),
        ("pull", "http://10.0.0.5:8080/base", False),
        ("pull", "postgresql://10.0.0.5:5432/transit", False),
        ("aep", "postgresql://10.0.0.5/x", True),
        ("aep", "ag-api.ctwing.cn", True),
        ("pull", "http://", True),
        ("pull", "http://[::1", True),
        ("pull", "postgresql://reader:hidden@10.0.0.5/x", True),
    ],
)
def test_url_of_a_platform_is_one_and_publishes_no_password(kind: str, endpoint: str, *, broken: bool) -> None:
    found = list(broken_rules(line(kind, endpoint)))
    assert [one.field for one in found] == ["endpoint"] * broken
    assert "hidden" not in repr(found)
