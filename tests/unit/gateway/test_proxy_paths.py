"""A path goes on segment by segment as it was written; what a library would resolve leads nowhere."""

import pytest

from services.gateway.proxy import segments_of


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        (b"/api/v1/alarms", ["alarms"]),
        (b"/api/v1/sites/site-1/history", ["sites", "site-1", "history"]),
        (b"/api/v1/sites/%E4%B8%AD", ["sites", "中"]),
        (b"/api/v1/sites/a%3Fb%23c%25d", ["sites", "a?b#c%d"]),
        (b"/%61pi/v1/sites/a.b", ["sites", "a.b"]),
        (b"/api/v1/sites/", ["sites", ""]),
        (b"/api/v1/sites/...", ["sites", "..."]),
    ],
)
def test_segments_are_what_was_written(raw: bytes, segments: list[str]) -> None:
    assert segments_of(raw) == segments


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/v1/alarms/../../../metrics",
        b"/api/v1/alarms/%2e%2e/%2E%2E/metrics",
        b"/api/v1/alarms/.%2e/metrics",
        b"/api/v1/alarms/./x",
        b"/api/v1/devices/..%2f..%2f..%2fdirect/v1/loads",
        b"/api/v1/sites/a%2Fb",
        b"/api/v1/sites/a%5Cb",
        b"/api/v1/sites/a%00b",
        b"/api/v1/sites/a%0d%0ab",
        b"/api/v1/sites/%ff",
        b"/api%2Fv1/alarms",
        b"/api/v1",
    ],
)
def test_what_is_no_name_leads_nowhere(raw: bytes) -> None:
    assert segments_of(raw) == []
