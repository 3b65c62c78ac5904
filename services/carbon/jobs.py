"""Long work of carbon, done by the job worker: reports, with their Excel and PDF files."""

import sys
from collections.abc import Mapping
from typing import Any

from libs.common.jobs import Handler, JobContext
from libs.common.jobworker import run_worker
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.settings import load_common, load_section
from services.carbon.bus import audit, finished_report
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.reports.definitions import FileFormat
from services.carbon.reports.excel import write_excel
from services.carbon.reports.pdf import write_pdf
from services.carbon.settings import CarbonSettings
from services.carbon.usecases.reportcontents import ReportContents
from services.carbon.usecases.reports import REPORT_JOB, ReportMaker
from services.carbon.wiring import SOFTWARE, Answers, World

RENDERERS = {FileFormat.EXCEL: write_excel, FileFormat.PDF: write_pdf}


async def report_maker(context: JobContext, profiles: ProfileCatalogue, settings: CarbonSettings) -> ReportMaker:
    """Wire what makes reports, over the registry as the service's table has it now."""
    db, clock = context.db, context.clock
    view = RegistryView(bus=None, db=db, clock=clock)
    await view.load_stored()
    directory = RegistryDirectory(view, profiles, clock, point=ENERGY_POINT)
    # A report may read as much as an inventory: it runs beside the service, and no person waits for the answer.
    answers = Answers.of(World(db, clock, view, directory), settings, intervals_max=settings.inventory_intervals_max)
    contents = ReportContents(
        db=db,
        clock=clock,
        view=view,
        queries=answers.queries,
        levels=answers.levels,
        costs=answers.money.costs,
        inventories=answers.inventories,
        shutdowns=answers.savings.shutdowns,
        statements=answers.savings.statements,
        software=SOFTWARE,
    )
    return ReportMaker(
        db=db,
        clock=clock,
        audit=audit,
        publish=finished_report,
        contents=contents,
        library=answers.inventories,
        renderers=RENDERERS,
    )


async def _report(context: JobContext) -> Mapping[str, Any]:
    profiles = ProfileCatalogue.load(load_common().profile_dirs)
    maker = await report_maker(context, profiles, load_section("carbon", CarbonSettings))
    return await maker.make(context)


JOB_HANDLERS: Mapping[str, Handler] = {REPORT_JOB: _report}


def main() -> int:
    """Run carbon's job worker alone; return the exit code."""
    return run_worker({"carbon": JOB_HANDLERS})


if __name__ == "__main__":
    sys.exit(main())
