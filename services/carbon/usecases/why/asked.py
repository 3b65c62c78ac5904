"""What can be asked of a trace, and how a trace says what to ask next."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from urllib.parse import urlencode

from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.booking import floor
from services.carbon.domain.factors import EmissionFactor
from services.carbon.domain.levels.balance import PueCategory
from services.carbon.domain.levels.comparison import Against
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.levels.electrical import Rating
from services.carbon.domain.levels.facts import FactKind
from services.carbon.domain.levels.periods import Step, periods
from services.carbon.domain.tariff.basic import Mode
from services.carbon.domain.why import FORMULAS, Because, Number, Quality, Question, Rule, Why
from services.carbon.tree import Node
from services.carbon.usecases.media import Assumed

NO_TARIFF = "none"
"""The band of energy that no tariff is in force for."""
HOLD_MONTHS = 3
"""How long a choice of the basic tariff has to be kept, unless said otherwise. [months]"""
TRACE_PATH = "/api/v1/energy/trace"


class Figure(StrEnum):
    """What a trace is of; the first of each line is what other routes answer, the rest lies beneath it."""

    ENERGY = "energy"
    CIRCUIT = "circuit"
    """A circuit's share of a node's energy: its intervals."""
    PARTS = "parts"
    """A quarter hour of a circuit that the next metering level stands in for."""
    INTERVAL = "interval"
    EMISSION = "emission"
    SITE_YEAR = "site_year"
    """One site's energy of one civil year times its factor."""
    CONSUMED = "consumed"
    PUE = "pue"
    INTENSITY = "intensity"
    SHARE = "share"
    """Of some circuits in the energy of a node (分项占比)."""
    CHANGE = "change"
    """Against a year or a period before (同比、环比)."""
    CHANGE_DAILY = "change_daily"
    """The same per day of each span."""
    PER_DAY = "per_day"
    LIKE_FOR_LIKE = "like_for_like"
    """The same of the sites that are known well enough in both."""
    CLEAN_SHARE = "clean_share"
    FLOW = "flow"
    """What the photovoltaics or generators of a node delivered, or what went out of it."""
    DELIVERED = "delivered"
    """A quarter hour of a circuit by its meter's register of export."""
    COMPLETENESS = "completeness"
    VIRTUAL = "virtual"
    """Of a virtual meter."""
    VIRTUAL_INTERVAL = "virtual_interval"
    """A quarter hour of a virtual meter, by its definition."""
    IMBALANCE = "imbalance"
    """Of the three currents of a circuit, the highest of a period."""
    POWER_FACTOR = "power_factor"
    DEMAND = "demand"
    LOAD_FACTOR = "load_factor"
    LOAD_RATE = "load_rate"
    """Of a transformer or line, the highest of a span (负载率)."""
    LOAD_MEAN = "load_mean"
    LOAD_TIME = "load_time"
    """Share of the time in which it was loaded lightly, normally, heavily, too much."""
    LOAD_QUARTER = "load_quarter"
    APPARENT = "apparent"
    REACTIVE = "reactive"
    MEAN_LOAD = "mean_load"
    """Mean power of the quarter hours of which all is known."""
    LOWEST = "lowest"
    """The lowest mean power of a quarter hour."""
    MEDIUM = "medium"
    """Of water, gas, heat, cold, steam or fuel."""
    MEDIUM_CIRCUIT = "medium_circuit"
    MEDIUM_INTERVAL = "medium_interval"
    MEDIUM_EMISSION = "medium_emission"
    MEDIUM_SITE = "medium_site"
    VIRTUAL_EMISSION = "virtual_emission"
    VIRTUAL_YEAR = "virtual_year"
    VIRTUAL_SITE = "virtual_site"
    """What of a virtual meter's energy is of one site."""
    COST = "cost"
    COST_LINE = "cost_line"
    BAND_ENERGY = "band_energy"
    """The energy of a line of a cost: slots of intervals that have its rate."""
    TARIFF_ENERGY = "tariff_energy"
    """The energy of a cost in one band of the tariff."""
    TARIFF_COST = "tariff_cost"
    BILL = "bill"
    """A bill beside its meters."""
    METERED = "metered"
    """What an account's meters say of a span."""
    MEDIUM_BILL = "medium_bill"
    """A bill of another medium beside its meters."""
    MEDIUM_METERED = "medium_metered"
    """What they say of its days, in its unit."""
    TARGET = "target"
    FORECAST = "forecast"
    """How a target's period will end."""
    FORECAST_HALF = "forecast_half"
    """Half of its interval."""
    FORECAST_LOW = "forecast_low"
    FORECAST_HIGH = "forecast_high"
    TARGET_MEASURED = "target_measured"
    TARGET_GAP = "target_gap"
    TARGET_PACE = "target_pace"
    BASIC_FEE = "basic_fee"
    """The basic fee of an account over months (容需分析)."""
    BASIC_MONTH = "basic_month"
    ACCOUNT_DEMAND = "account_demand"
    ACCRUAL = "accrual"
    """What is used in a month and not billed yet (电费递延)."""
    ACCRUED_ENERGY = "accrued_energy"
    BILLED = "billed"
    """A month's part of what bills say of energy."""
    BILLED_MONEY = "billed_money"
    INVENTORY = "inventory"
    INVENTORY_LINE = "inventory_line"
    INVENTORY_USE = "inventory_use"
    """The metered electricity of a line."""
    AVOIDED = "avoided"
    AVOIDED_LINE = "avoided_line"
    STANDARD_COAL = "standard_coal"
    """Of a published inventory, as frozen."""
    SAVING = "saving"
    """Of an occurrence or a plan of shutdowns, or of a site."""
    SAVING_SHARE = "saving_share"
    SAVING_WINDOW = "saving_window"
    SAVING_BASELINE = "saving_baseline"
    """What a window would have used, by the days it was compared with."""
    SAVING_REBOUND = "saving_rebound"
    SAVING_EMISSION = "saving_emission"
    SAVING_WINDOW_EMISSION = "saving_window_emission"
    SAVING_MONEY = "saving_money"
    SAVING_ERROR = "saving_error"
    """Standard error of a saving."""
    SAVING_USUAL = "saving_usual"
    """What is used on other days at the clock time of a window."""
    SAVING_USUAL_AFTER = "saving_usual_after"
    PROJECT = "project"
    MEASURE = "measure"
    STATEMENT = "statement"
    """The money of a statement of an energy performance contract (合同能源)."""
    STATEMENT_LINE = "statement_line"
    STATEMENT_METER = "statement_meter"
    STATEMENT_SAVING = "statement_saving"
    EFFICIENCY = "efficiency"
    """K of a carbon efficiency code (碳效码)."""
    EFFICIENCY_INTENSITY = "efficiency_intensity"
    EFFICIENCY_NET = "efficiency_net"
    EFFICIENCY_GROSS = "efficiency_gross"
    """Electricity and every other medium."""
    EFFICIENCY_DEDUCTED = "efficiency_deducted"
    EFFICIENCY_COVERED = "efficiency_covered"
    """What zero-carbon electricity would have emitted."""
    FOOTPRINT = "footprint"
    """Of a product (产品碳足迹), of a stage of its life, or what stands beside it."""
    FOOTPRINT_FLOW = "footprint_flow"
    FOOTPRINT_INPUT = "footprint_input"
    FOOTPRINT_PRIMARY = "footprint_primary"
    """Share that rests on primary data."""
    FOOTPRINT_QUALITY = "footprint_quality"


class Flow(StrEnum):
    """Which energy of a balance."""

    PHOTOVOLTAICS = "photovoltaics"
    GENERATORS = "generators"
    EXPORTED = "exported"


class Method(StrEnum):
    """Which figure of an inventory."""

    LOCATION = "location"
    MARKET = "market"


class LoadBand(StrEnum):
    """How far a transformer or line is loaded; the limits are ``electrical.BANDS``."""

    LIGHT = "light"
    NORMAL = "normal"
    HEAVY = "heavy"
    OVERLOAD = "overload"


WHOLE = Dimension()
"""The node itself."""
NOTHING_ASSUMED = Assumed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One question; what a figure does not need is None."""

    figure: Figure
    node: Node | None = None
    account: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    dimension: Dimension = WHOLE
    category: PueCategory | None = None
    """Of a PUE; of an energy, the circuits that measure IT at it."""
    booked: bool = False
    """Without what is running now, as figures of levels are."""
    part: CircuitId | None = None
    """Only this circuit of the node."""
    of_site: SiteId | None = None
    """Only what the node has at this site."""
    kind: FactKind | None = None
    against: Against = Against.YEAR
    daily: bool = False
    flow: Flow | None = None
    line: str | None = None
    """Number of a line of a cost or statement, of a window of a saving, of a bill; id of a line of an inventory, of a
    measure, of a meter, of a flow; stage or account of a footprint."""
    id: str | None = None
    """Of a target, an inventory, an occurrence, a project, a statement, a product, a standard of efficiency."""
    plan: str | None = None
    rating: Rating | None = None
    """Of a load rate; ``line`` is the name of the transformer or line, none is all transformers of the site."""
    band: LoadBand | None = None
    at: datetime | None = None
    """A time in the quarter hour of the span that is asked about."""
    mode: Mode | None = None
    """Of a basic fee; None is the best plan."""
    hold_months: int = HOLD_MONTHS
    """How long a plan keeps each mode."""
    point: str | None = None
    """Register of a medium, or of reactive energy; of a bill of a medium, the register that counts the same."""
    assumed: Assumed = NOTHING_ASSUMED
    """What no meter says of a medium."""
    version: int | None = None
    method: Method = Method.LOCATION
    as_of: date | None = None

    @property
    def place(self) -> Node:
        """The node.

        Raises:
            InvalidInput: None is named.
        """
        if self.node is None:
            raise missing("site, circuit, room, region, organisation")
        return self.node

    @property
    def span(self) -> tuple[datetime, datetime]:
        """From when to when.

        Raises:
            InvalidInput: It is not said, or ends before it begins.
        """
        if self.start is None or self.end is None:
            raise missing("from, to")
        if self.end <= self.start:
            raise InvalidInput("to: expected a time after from", message_zh="to 必须晚于 from")
        return self.start, self.end

    @property
    def grid(self) -> tuple[datetime, datetime]:
        """From when to when, in whole quarter hours.

        Raises:
            InvalidInput: It is not said, ends before it begins, or cuts a quarter hour.
        """
        start, end = self.span
        if start != floor(start) or end != floor(end):
            raise InvalidInput("from, to: expected starts of quarter hours", message_zh="from、to:应为整刻钟的时刻")
        return start, end

    @property
    def period(self) -> Step:
        """The civil period that the span is.

        Raises:
            InvalidInput: It is none, or several.
        """
        start, end = self.span
        for step in Step:
            (whole,) = periods(step, start, start + timedelta(microseconds=1)).rows()
            if whole == (start, end):
                return step
        raise InvalidInput(
            f"from, to: expected one civil quarter hour, hour, day, week, month or year, found {start} to {end}",
            message_zh=f"from、to:应恰为一个自然刻、时、日、周、月或年,实际为 {start} 至 {end}",
        )

    @property
    def number(self) -> int:
        """Number of a line or window.

        Raises:
            InvalidInput: ``line`` is none.
        """
        if self.line is None or not self.line.isdecimal() or len(self.line) > 9:
            raise InvalidInput(
                f"line: expected a number, found {self.line!r}", message_zh=f"line:应为数字,实际为 {self.line!r}"
            )
        return int(self.line)

    def text(self, name: str) -> str:
        """Return what was said for a name.

        Raises:
            InvalidInput: Nothing was.
        """
        found = getattr(self, name)
        if not isinstance(found, str):
            raise missing(name)
        return found


def missing(names: str) -> InvalidInput:
    """Return what to say where a question lacks a parameter."""
    return InvalidInput(f"{names}: expected for this figure, found nothing", message_zh=f"{names}:此指标必填")


def question(
    figure: Figure,
    node: Node | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    dimension: Dimension | None = None,
    **more: str | int | None,
) -> Question:
    """Return a question as query parameters."""
    found: dict[str, str] = {"figure": figure.value}
    if node is not None:
        found[node.kind.value] = node.id
    for name, at in (("from", start), ("to", end)):
        if at is not None:
            found[name] = stamp(at)
    for name in ("role", "tag", "use", "level"):
        value = getattr(dimension, name, None)
        if value is not None:
            found[name] = str(value)
    return found | {name: str(value) for name, value in more.items() if value is not None}


def why(
    wanted: Wanted,
    *,
    value: Number | None,
    unit: str,
    rule: Rule,
    inputs: Sequence[Because],
    quality: Quality | None = None,
    marks: Sequence[str] = (),
    withheld: bool = False,
    factors: Sequence[EmissionFactor] = (),
    formula: tuple[str, str] | None = None,
) -> Why:
    """Return the trace of what was asked for; formula and source are those of its kind unless given."""
    text, source = formula or FORMULAS[wanted.figure]
    return Why(
        figure=wanted.figure,
        node=wanted.node.id if wanted.node is not None else wanted.account or wanted.id or wanted.plan or "",
        start=wanted.start,
        end=wanted.end,
        value=value,
        unit=unit,
        rule=rule,
        formula=text,
        source=source,
        inputs=inputs,
        quality=quality,
        marks=marks,
        withheld=withheld,
        factors=factors,
    )


def trace_link(asked: Question) -> str:
    """Return the address that answers a question: what a report writes beside a figure, and a trace beside an input.

    ``trace_link(question(Figure.ENERGY, node, start, end))`` is that of the energy of a node.
    """
    return f"{TRACE_PATH}?{urlencode(asked)}"


def stamp(at: datetime) -> str:
    """Return a time as it is written in a question."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
