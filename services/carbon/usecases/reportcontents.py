"""What a report says, out of the books as they are when it is made: energy, savings, inventories, contracts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from libs.common.clock import CIVIL_ZONE, Clock
from libs.common.contracts.registry import EntityKind
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.registry import RegistryView
from services.carbon.domain.levels.cover import Dimension
from services.carbon.domain.reports.content import Reason, Report, ReportKind, Section, Text
from services.carbon.domain.reports.contract import contract_content
from services.carbon.domain.reports.definitions import Definition, SubjectKind
from services.carbon.domain.reports.inventory import inventory_content
from services.carbon.domain.reports.periods import STEPS, WHOLE_STEPS, Period
from services.carbon.domain.statements import StatementKind
from services.carbon.queries import Queries
from services.carbon.reports.energy import EnergyAnswers, energy_content
from services.carbon.reports.savings import savings_content
from services.carbon.statements import decode_publication
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.costs import Costs, NodeCost
from services.carbon.usecases.inventories import Inventories
from services.carbon.usecases.levels import By, Levels
from services.carbon.usecases.reports import MAKER, question_of
from services.carbon.usecases.shutdowns import ShutdownSavings
from services.carbon.usecases.statements import Statements

_CURVE = ("max_kw", "max_at", "min_kw", "mean_kw", "load_factor", "curve_quarters")
_NAMED = (
    EntityKind.SITE,
    EntityKind.ROOM,
    EntityKind.CIRCUIT,
    EntityKind.REGION,
    EntityKind.ORGANISATION,
)


@dataclass(frozen=True, slots=True)
class Said:
    """A content before it has its head."""

    subject: Text
    start: datetime
    end: datetime
    sections: tuple[Section, ...]
    reasons: tuple[Reason, ...]


class ReportContents:
    """Asks what the other parts of carbon answer, and has it put into chapters."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        view: RegistryView,
        queries: Queries,
        levels: Levels,
        costs: Costs,
        inventories: Inventories,
        shutdowns: ShutdownSavings,
        statements: Statements,
        software: str,
    ) -> None:
        self._db = db
        self._clock = clock
        self._view = view
        self._queries = queries
        self._levels = levels
        self._costs = costs
        self._inventories = inventories
        self._shutdowns = shutdowns
        self._statements = statements
        self._software = software

    async def of(self, definition: Definition, edition: str) -> Report:
        """Return what a report says now.

        Raises:
            InvalidInput: There is no such edition, or it is not over.
            NotFound: What it is of is not there, or nothing of it can be measured.
        """
        now = self._clock.now()
        definition.check_edition(edition, now)
        if definition.kind.is_energy:
            said = await self._energy(definition, definition.period(edition))
        elif definition.kind is ReportKind.SAVINGS:
            said = await self._savings(definition, definition.period(edition))
        elif definition.kind is ReportKind.INVENTORY:
            said = await self._inventory(definition, definition.inventory_version(edition))
        else:
            said = await self._contract(definition, edition)
        return Report(
            kind=definition.kind,
            title=definition.title,
            subject=said.subject,
            start=said.start,
            end=said.end,
            known_on=now.astimezone(CIVIL_ZONE).date(),
            made_at=now.replace(microsecond=0),
            software=self._software,
            question=question_of(definition, edition),
            sections=said.sections,
            reasons=said.reasons,
        )

    async def _energy(self, definition: Definition, period: Period) -> Said:
        node = Node(NodeKind(definition.subject_kind.value), definition.subject_id)
        start, end = period.start_at, period.end_at
        whole_step, step = WHOLE_STEPS[period.length], STEPS[period.length]
        # The emissions of months and years are asked with their energy, which the profile's curve is joined to.
        parts = await self._queries.emissions(node=node, start=start, end=end, step=step)
        whole = await self._queries.emissions(node=node, start=start, end=end, step=whole_step)
        curve = await self._levels.profile(node, start, end, step=step, dimension=Dimension())
        curve_whole = await self._levels.profile(node, start, end, step=whole_step, dimension=Dimension())
        by = By.SITE if node.kind.is_group else By.USE
        _, slices = await self._levels.breakdown(node, start, end, by)
        if not slices and not node.kind.is_group and node.kind is not NodeKind.CIRCUIT:
            by = By.ROLE
            _, slices = await self._levels.breakdown(node, start, end, by)
        names = self._names()
        answers = EnergyAnswers(
            node=node,
            period=period,
            whole=_joined(whole.frame, curve_whole.frame)[0],
            rows=_joined(parts.frame, curve.frame),
            circuits=parts.energy.circuits,
            choices=whole.choices,
            cost=await self._cost(node, start, end),
            comparisons=await self._levels.comparison(node, start, step=whole_step),
            by=by,
            parts=slices,
            names=names,
        )
        sections, reasons = energy_content(answers)
        name = names.get(node.id, node.id)
        return Said(_titled(definition, name, period), start, end, sections, reasons)

    async def _cost(self, node: Node, start: datetime, end: datetime) -> NodeCost | Text:
        try:
            return await self._costs.cost(MAKER, node, start=start, end=end, daily=False)
        except InvalidInput as exc:  # more lines than one answer may have; the report stands without them and says so
            return Text(exc.message, exc.message_zh or exc.title_zh)

    async def _savings(self, definition: Definition, period: Period) -> Said:
        start, end = period.start_at, period.end_at
        async with self._db.read() as conn:
            if definition.subject_kind is SubjectKind.SITE:
                site = SiteId(definition.subject_id)
                found = await self._shutdowns.of_site(conn, site, start=start, end=end)
            else:
                found = await self._shutdowns.of_plan(conn, definition.subject_id, start=start, end=end)
        names = self._names()
        asked = {definition.subject_kind.value: definition.subject_id}
        sections, reasons = savings_content(found, asked=asked, names=names)
        name = names.get(definition.subject_id, definition.subject_id)
        return Said(_titled(definition, name, period), start, end, sections, reasons)

    async def _inventory(self, definition: Definition, version: int) -> Said:
        text, digest = await self._inventories.statement(
            StatementKind.INVENTORY, definition.subject_id, version
        )  # fmt: skip
        one = decode_publication(text)
        names = self._names()
        sections, reasons = inventory_content(one, digest=digest, names=names, stated=definition.stated)
        span = one.inputs.boundary.span
        subject = f"{definition.subject_id} v{version}"
        title = Text(f"{definition.name.en}: {subject}", f"{definition.name.zh}:{subject}")
        return Said(title, span.start, span.end, sections, reasons)

    async def _contract(self, definition: Definition, statement_id: str) -> Said:
        shown = await self._statements.shown(statement_id)
        content = shown.statement.content
        if content.contract_id != definition.subject_id:
            raise NotFound(
                f"contract {definition.subject_id} has no statement {statement_id}",
                message_zh=f"合同 {definition.subject_id} 没有结算单 {statement_id}",
            )
        sections, reasons = contract_content(shown.statement, shown.contract)
        start, end = (
            datetime.combine(day, datetime.min.time(), CIVIL_ZONE) for day in (content.start, content.end)
        )  # fmt: skip
        days = f"{content.start.isoformat()} – {content.end.isoformat()}"
        title = Text(f"{shown.contract.name}, {days}", f"{shown.contract.name_zh},{days}")
        return Said(title, start, end, sections, reasons)

    def _names(self) -> Mapping[str, str]:
        """Return the names of places by id, as the registry has them now."""
        found: dict[str, str] = {}
        for kind in _NAMED:
            for record in self._view.index.records_of(kind):
                for last in record.versions[-1:]:
                    found[last.id] = last.name_zh or last.name
        return found


def _titled(definition: Definition, name: str, period: Period) -> Text:
    words = period.words
    return Text(f"{definition.name.en}: {name}, {words.en}", f"{definition.name.zh}:{name},{words.zh}")


def _joined(energy: pl.DataFrame, curve: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame of energy with the figures of the load curve of the same periods."""
    return energy.join(curve.select("start", *_CURVE), on="start", how="left").sort("start").to_dicts()
