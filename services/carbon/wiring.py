"""What computes the figures of carbon, wired once: the API and the reports are made of the same parts.

A report and the API cannot come to differ in what they ask with; they differ in how much one question may read.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Self

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.registry import RegistryView
from libs.common.workdays import china
from services.carbon import library
from services.carbon.boundary import Boundaries, Limits
from services.carbon.bus import audit, result
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import ENERGY_POINT
from services.carbon.domain.factors import FactorLibrary
from services.carbon.gridfactors import GridFactors
from services.carbon.loads import LoadDirectory
from services.carbon.queries import Queries
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
from services.carbon.usecases.efficiency import Efficiency
from services.carbon.usecases.figures import Figures
from services.carbon.usecases.footprints import Footprints
from services.carbon.usecases.gridprices import GridPrices
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.levels import Levels
from services.carbon.usecases.measurements import Measurements
from services.carbon.usecases.media import MediaUses
from services.carbon.usecases.mediabills import MediumBills
from services.carbon.usecases.meterends import MeterEnds
from services.carbon.usecases.metering import Metering
from services.carbon.usecases.projects import Projects
from services.carbon.usecases.shutdowns import ShutdownSavings, civil_exceptions
from services.carbon.usecases.statements import Statements
from services.carbon.usecases.supply import Supply
from services.carbon.usecases.targets import Targets
from services.carbon.usecases.tariffs import Tariffs
from services.carbon.usecases.virtual import VirtualMeters

SOFTWARE = version("wattring-carbon")
"""What published statements and reports say they were made by."""


@dataclass(frozen=True, slots=True)
class World:
    """What everything is asked of: the service's database, the time, and the registry."""

    db: Database
    clock: Clock
    view: RegistryView
    directory: RegistryDirectory


@dataclass(frozen=True, slots=True)
class Money:
    """Tariffs, bills, and what they make of energy."""

    tariffs: Tariffs
    bills: Bills
    costs: Costs
    targets: Targets

    @classmethod
    def of(cls, world: World, queries: Queries, sites: Sites) -> Self:
        """Wire them over the energy that ``queries`` answers."""
        db, clock = world.db, world.clock
        tariffs = Tariffs(db=db, clock=clock, audit=audit, shipped=shipped_rows())
        bills = Bills(db=db, sites=sites, clock=clock, audit=audit)
        costs = Costs(db=db, tariffs=tariffs, bills=bills, sites=sites, boundaries=queries.boundaries, clock=clock)
        targets = Targets(db=db, figures=Figures(queries, costs), sites=sites, clock=clock, audit=audit, publish=result)
        return cls(tariffs, bills, costs, targets)


@dataclass(frozen=True, slots=True)
class Savings:
    """What was saved by switching off, by projects and under contracts."""

    loads: LoadDirectory
    shutdowns: ShutdownSavings
    projects: Projects
    statements: Statements

    @classmethod
    def of(cls, world: World, tariffs: Tariffs, shipped: FactorLibrary) -> Self:
        """Wire them with the prices of ``tariffs`` and the factors of ``shipped``."""
        loads = LoadDirectory(world.view, world.clock)
        days = china()
        holidays = civil_exceptions(days.off, days.work)
        shutdowns = ShutdownSavings(
            switchings=switchings_store,
            intervals=intervals_store,
            outages=outages_store,
            loads=loads,
            factors=GridFactors(shipped.rows, world.directory, world.clock),
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
        statements = Statements(
            db=world.db,
            clock=world.clock,
            audit=audit,
            measurements=measurements,
            meter_ends=MeterEnds(meters=world.directory, point=ENERGY_POINT),
        )
        projects = Projects(db=world.db, clock=world.clock, audit=audit, measurements=measurements)
        return cls(loads, shutdowns, projects, statements)


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything that answers what a figure is."""

    shipped: FactorLibrary
    queries: Queries
    levels: Levels
    supply: Supply
    virtual: VirtualMeters
    media: MediaUses
    medium_bills: MediumBills
    efficiency: Efficiency
    footprints: Footprints
    nodes: Topology
    inventories: Inventories
    sites: Sites
    money: Money
    savings: Savings

    @classmethod
    def of(cls, world: World, settings: CarbonSettings, *, intervals_max: int) -> Self:
        """Wire them.

        Args:
            world: What they are asked of.
            settings: Limits of questions and statements.
            intervals_max: Intervals that one question may read.
        """
        db, clock, directory = world.db, world.clock, world.directory
        shipped = library.load_library()
        limits = Limits(days=settings.query_days_max, intervals=intervals_max, periods=settings.query_periods_max)
        boundaries = Boundaries(db=db, tree=Tree(world.view), clock=clock, limits=limits)
        queries = Queries(
            db=db, directory=directory, boundaries=boundaries, clock=clock, factors=shipped.rows, point=ENERGY_POINT
        )
        media = MediaUses(db=db, boundaries=boundaries, directory=directory, factors=shipped.rows)
        nodes = Topology(world.view)
        metering = Metering(nodes=nodes, energy=boundaries, clock=clock, intervals_max=settings.inventory_intervals_max)
        inventories = Inventories(
            db=db,
            books=inventory_store,
            metering=metering,
            clock=clock,
            shipped=shipped,
            coal=library.load_coal(),
            audit=audit,
            software=SOFTWARE,
        )
        sites = Sites(boundaries.tree, world.view, clock)
        money = Money.of(world, queries, sites)
        return cls(
            shipped=shipped,
            queries=queries,
            levels=Levels(db=db, boundaries=boundaries, directory=directory, audit=audit),
            supply=Supply(db=db, boundaries=boundaries, directory=directory),
            virtual=VirtualMeters(db=db, circuits=directory, boundaries=boundaries, audit=audit),
            media=media,
            medium_bills=MediumBills(db=db, sites=sites, media=media, clock=clock, audit=audit),
            efficiency=Efficiency(
                db=db, queries=queries, media=media, directory=directory, shipped=library.load_standards(), audit=audit
            ),
            footprints=Footprints(db=db, clock=clock, audit=audit, factors=shipped.rows),
            nodes=nodes,
            inventories=inventories,
            sites=sites,
            money=money,
            savings=Savings.of(world, money.tariffs, shipped),
        )
