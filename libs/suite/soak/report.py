"""What a soak showed: a table for people, in both languages, and JSON for programs."""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libs.suite.soak.judge import Discrepancy, Figures
from libs.suite.soak.run import Outcome

RESULTS = Path("soak-results")
WIDTH = 120
"""Of the table where there is no terminal. [characters]"""
SHOWN = 50
"""Discrepancies that are printed; the file has all."""
COLUMNS: Mapping[str, str] = {
    "device_id": "device\n设备",
    "said": "said\n发出",
    "accepted": "accepted\n已接收",
    "held": "held\n在库",
    "excused": "died with a cut\n中断丢失",
    "unsent": "never left\n未发出",
    "unanswered": "no answer\n无应答",
    "missing_slots": "slots missing, shown\n缺测(平台统计)",
}


def show(outcome: Outcome) -> None:
    """Print it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=f"soak 浸泡试验: seed {outcome.soak.seed}, {outcome.soak.length_s:.0f} s")
    for heading in COLUMNS.values():
        table.add_column(heading, no_wrap=heading == COLUMNS["device_id"])
    for one in outcome.verdict.figures:
        table.add_row(*(str(getattr(one, name)) for name in COLUMNS))
    total = totals(outcome.verdict.figures)
    table.add_row(*(str(total.get(name, "")) for name in COLUMNS), style="bold")
    console.print(table)
    console.print(
        f"{len(outcome.done)} disturbances 次干扰; {outcome.verdict.refusals} refusals on record 条拒收在案; "
        f"at rest after 恢复用时 {outcome.settled_s:.1f} s; {outcome.took_s:.0f} s in all 总计",
        highlight=False,
    )
    for found in outcome.verdict.discrepancies[:SHOWN]:
        console.print(line(found), style="red", highlight=False, markup=False)
    count = len(outcome.verdict.discrepancies)
    console.print(f"{count} discrepancies 处不符" if count else "no discrepancy 无不符", style="bold", highlight=False)


def line(found: Discrepancy) -> str:
    """Return a discrepancy as a line."""
    return f"{found.device_id}  {found.at.isoformat(timespec='milliseconds')}  {found.fault}: {found.detail}"


def totals(figures: Sequence[Figures]) -> dict[str, Any]:
    """Return the sums of all devices."""
    names = [name for name in COLUMNS if name != "device_id"]
    return {"device_id": "all 合计", **{name: sum(getattr(one, name) for one in figures) for name in names}}


def write(outcome: Outcome, folder: Path = RESULTS) -> Path:
    """Write it down and return where."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-seed-{outcome.soak.seed}.json"
    body = {
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "seed": outcome.soak.seed,
        "length_s": outcome.soak.length_s,
        "took_s": round(outcome.took_s, 1),
        "settled_s": round(outcome.settled_s, 1),
        "disturbances": list(outcome.done),
        "devices": [asdict(one) for one in outcome.verdict.figures],
        "totals": totals(outcome.verdict.figures),
        "refusals_on_record": outcome.verdict.refusals,
        "discrepancies": [
            {"device_id": one.device_id, "at": one.at.isoformat(), "fault": one.fault, "detail": one.detail}
            for one in outcome.verdict.discrepancies
        ],
    }
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
