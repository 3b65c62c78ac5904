"""Long work of carbon, done by the job worker: reports, with their Excel and PDF files."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from libs.common.jobs import Handler, JobContext
from libs.common.jobworker import run_worker
from libs.common.profiles import ProfileCatalogue
from libs.common.registry import RegistryView
from libs.common.settings import load_common, load_section
from libs.common.workdays import china
from services.carbon.boundary import Boundaries, Limits
from services.carbon.bus import audit, finished_report
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.reports.definitions import FileFormat
from services.carbon.gridfactors import GridFactors
from services.carbon.library import load_coal, load_library
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Queries
from services.carbon.reports.excel import write_excel
from services.carbon.reports.pdf import write_pdf
from services.carbon.settings import CarbonSettings
from services.carbon.sites import Sites
from services.carbon.store import intervals as intervals_store
from services.carbon.store import inventories as inventory_store
from services.carbon.store import outages as outages_store
from services.carbon.store import switchings as switchings_store
from services.carbon.store import temperatures as temperatures_store
from services.carbon.tariff_file import shipped_rows
from services.carbon.topology import Topology
from services.carbon.tree import Tree
from services.carbon.usecases.bills import Bills
from services.carbon.usecases.costs import Costs
from services.carbon.usecases.gridprices import GridPrices
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.measurements import Measurements
from services.carbon.usecases.meterends import MeterEnds
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.reportcontents import ReportContents
from services.carbon.usecases.reports import REPORT_JOB, ReportMaker
from services.carbon.usecases.shutdowns import ShutdownSavings, civil_exceptions
from services.carbon.usecases.statements import Statements
from services.carbon.usecases.tariffs import Tariffs

RENDERERS = {FileFormat.EXCEL: write_excel, FileFormat.PDF: write_pdf}


async def report_maker(context: JobContext, profiles: ProfileCatalogue, settings: CarbonSettings) -> ReportMaker:
    """Wire what makes reports, over the registry as the service's table has it now."""
    db, clock = context.db, context.clock
    view = RegistryView(bus=None, db=db, clock=clock)
    await view.load_stored()
    directory = RegistryDirectory(view, profiles, clock, point=ENERGY_POINT)
    shipped = load_library()
    # A report may read as much as an inventory: it runs beside the service, and no person waits for the answer.
    limits = Limits(
        days=settings.query_days_max, intervals=settings.inventory_intervals_max, periods=settings.query_periods_max
    )
    boundaries = Boundaries(db=db, tree=Tree(view), clock=clock, limits=limits)
    software = version("wattring-carbon")
    inventories = Inventories(
        db=db,
        books=inventory_store,
        metering=Metering(
            nodes=Topology(view), energy=boundaries, clock=clock, intervals_max=settings.inventory_intervals_max
        ),
        clock=clock,
        shipped=shipped,
        coal=load_coal(),
        audit=audit,
        software=software,
    )
    tariffs = Tariffs(db=db, clock=clock, audit=audit, shipped=shipped_rows())
    sites = Sites(boundaries.tree, view, clock)
    bills = Bills(db=db, sites=sites, clock=clock, audit=audit)
    loads = LoadDirectory(view, clock)
    days = china()
    holidays = civil_exceptions(days.off, days.work)
    shutdowns = ShutdownSavings(
        switchings=switchings_store,
        intervals=intervals_store,
        outages=outages_store,
        loads=loads,
        factors=GridFactors(shipped.rows, directory, clock),
        prices=GridPrices(tariffs, loads),
        temperatures=temperatures_store,
        holidays=holidays,
    )
    measurements = Measurements(
        intervals=intervals_store,
        temperatures=temperatures_store,
        shutdowns=shutdowns,
        circuits=loads,
        holidays=holidays,
    )
    contents = ReportContents(
        db=db,
        clock=clock,
        view=view,
        queries=Queries(
            db=db, directory=directory, boundaries=boundaries, clock=clock, factors=shipped.rows, point=ENERGY_POINT
        ),
        levels=Levels(db=db, boundaries=boundaries, directory=directory, audit=audit),
        costs=Costs(db=db, tariffs=tariffs, bills=bills, sites=sites, boundaries=boundaries, clock=clock),
        inventories=inventories,
        shutdowns=shutdowns,
        statements=Statements(
            db=db,
            clock=clock,
            audit=audit,
            measurements=measurements,
            meter_ends=MeterEnds(meters=directory, point=ENERGY_POINT),
        ),
        software=software,
    )
    return ReportMaker(
        db=db,
        clock=clock,
        audit=audit,
        publish=finished_report,
        contents=contents,
        library=inventories,
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
