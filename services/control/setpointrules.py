"""Rules for set points that ship with Wattring."""

import csv
from functools import cache
from importlib.resources import files

from services.control.domain.setpoints import SetpointRule, read_rule

SHIPPED = "setpoint_rules.csv"


@cache
def shipped_rules() -> tuple[SetpointRule, ...]:
    """Return the shipped rules."""
    text = (files("services.control") / "data" / SHIPPED).read_text(encoding="utf-8")
    return tuple(_rule(row) for row in csv.DictReader(text.splitlines()))


def _rule(row: dict[str, str]) -> SetpointRule:
    raw: dict[str, object] = {
        name: row[name] for name in ("point", "from", "to", "zone", "effect", "source", "source_zh")
    }
    raw |= {name: float(row[name]) for name in ("min", "max") if row[name]}
    raw["site_kinds"] = row["site_kinds"].split()
    return read_rule(row["rule"], raw, f"shipped {row['version']}")
