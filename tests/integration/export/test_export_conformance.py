"""The units of export, examined by the conformance centre: every command, everything hostile, faults on the way."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.clock import SystemClock
from libs.fieldsim.sc.client import UnitClient
from libs.fieldsim.sc.conformance import Examination
from libs.fieldsim.sc.faults import parse_order
from libs.fieldsim.sc.report import Report, Verdict
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import spec_named
from tests.integration.export.conftest import Export, Kit
from tests.integration.export.test_export_dialects import SU, connect, mapping

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

FAULTS = ("result_0", "drop", "garbage", "wrong_code", "http_500", "no_answer:delay_s=0.3", "late:delay_s=0.3")
"""Nothing here waits for a timeout: on a slow machine an ordinary answer must not be taken for a lost one."""
OPEN_QUESTIONS = {
    "T": set(),
    # Of the failure codes of Y only the two ends are public: a refusal carries none, and the centre has to be asked.
    "Y": {"failure"},
}


@pytest.mark.parametrize("dialect", ["T", "Y"])
async def test_units_conform_with_everything_going_wrong(dialect: str, export: Export, kit: Kit) -> None:
    spec = spec_named(dialect)
    unit_id = kit.fsu if dialect == "T" else SU
    url = f"http://127.0.0.1:{export.unit_port}{spec.unit_path}"
    clock = SystemClock()
    centre = SupervisionCentre(clock=clock, policy=Policy(spec=spec, strict=True, unit_urls={"*": url}))
    for text in FAULTS:
        centre.faults.place(parse_order(f"{text}{',' if ':' in text else ':'}command=SEND_ALARM"))
    began_at = clock.now()
    await centre.start()
    calls = asyncio.create_task(centre.run(), name="centre")
    try:
        table = kit.mapping() if dialect == "T" else mapping()
        await connect(export, centre, dialect, unit_id, table, login_interval_s=180, timeout_s=30)
        now = datetime.now(UTC)
        began, over = now - timedelta(seconds=20), now - timedelta(seconds=5)
        await export.publish(kit.reading({"voltage_a": 152.3, "frequency": 50.0}))
        await export.publish(kit.begin("a-1", began_at=began), kit.end("a-1", began_at=began, ended_at=over))
        await export.publish(kit.begin("a-2", began_at=over))
        async with UnitClient(30.0, spec) as client:
            examination = Examination(client, url, unit_id, clock, centre.trap_url, centre.trapped)
            steps = await examination.run()

        async def delivered() -> bool:
            return len(await export.deliveries(state="delivered")) == 3 and not centre.faults.pending()

        await kit.until(delivered)
    finally:
        calls.cancel()
        await asyncio.wait([calls])
        await centre.stop()
    heard = [entry for entry in centre.journal.after() if entry["direction"] == "in"]
    report = Report(spec, unit_id, url, began_at, clock.now(), steps, heard)
    assert report.verdict is Verdict.CONFORMS, "\n".join(report.lines())
    assert {each.finding.rule.value for each in report.seen} == OPEN_QUESTIONS[dialect], "\n".join(report.lines())
    assert {entry["fault"] for entry in heard} >= {text.partition(":")[0] for text in FAULTS}
    assert centre.trapped == []
