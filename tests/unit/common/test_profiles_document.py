"""The documented profile is one that loads."""

import re
from pathlib import Path

from libs.common.profiles import ReadBack, parse_profile

DOCUMENT = Path(__file__).parents[3] / "docs" / "device-profiles.md"


def test_documented_profile_loads() -> None:
    match = re.search(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    found = parse_profile(match[1], name="m1", source="device-profiles.md")
    assert found.points["energy_active_import"].modulus == 1_000_000
    assert found.controls["breaker_close"].read_back == ReadBack(("breaker_state",), 1.0)
    assert found.points["breaker_state"].value_map == {0xF0: 1.0, 0x0F: 0.0}
