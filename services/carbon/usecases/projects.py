"""Retrofit projects: kept by version, their stages followed, their measures measured and assessed when asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from libs.common.clock import Clock
from libs.common.db import Database, ReadConn, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import new_id
from libs.common.tokens import Principal
from services.carbon.documents.projects import project_of
from services.carbon.domain.savings.measurement.measured import Adjustment
from services.carbon.domain.savings.projects.assessment import Assessment, assess
from services.carbon.domain.savings.projects.measures import Measure
from services.carbon.domain.savings.projects.project import Project
from services.carbon.store import projects as store
from services.carbon.store.projects import ProjectRow
from services.carbon.usecases.measurements import Measurement, Measurements
from services.carbon.usecases.ports import Audit, audit_event


class UnknownProject(NotFound):
    """There is no such project."""

    code = "unknown_project"
    title_zh = "项目不存在"


class ProjectExists(Conflict):
    """A project of that id is there already."""

    code = "project_exists"
    title_zh = "项目已存在"


class ProjectChanged(Conflict):
    """Somebody else has changed the project since it was read."""

    code = "project_changed"
    title_zh = "项目已被修改"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssessedProject:
    """A project with what is known of it today."""

    row: ProjectRow
    project: Project
    assessment: Assessment
    measurements: Mapping[str, Measurement]
    """By measure; those without a measurement plan have none."""
    adjustments: Mapping[str, Sequence[Adjustment]]


class Projects:
    """Keeps projects and assesses them."""

    def __init__(self, *, db: Database, clock: Clock, audit: Audit, measurements: Measurements) -> None:
        self._db = db
        self._clock = clock
        self._audit = audit
        self._measurements = measurements

    async def create(self, document: Mapping[str, Any], who: Principal) -> ProjectRow:
        """Store a new project.

        Raises:
            InvalidInput: The domain refuses it.
            ProjectExists: There is one of that id.
        """
        project = project_of(document)
        row = self._row(project.project_id, 1, document, who, "created")
        async with self._db.write() as conn:
            if not await store.add_version(conn, row):
                raise ProjectExists(
                    f"project {project.project_id} is there already", message_zh=f"项目 {project.project_id} 已存在"
                )
            await self._told(conn, "project.create", row, None, who)
        return row

    async def replace(
        self, project_id: str, document: Mapping[str, Any], *, version: int, reason: str, who: Principal
    ) -> ProjectRow:
        """Store a new version of a project in place of the one that was read.

        Raises:
            InvalidInput: The domain refuses it, or it is of another project.
            UnknownProject: There is none.
            ProjectChanged: ``version`` is not the latest any more.
        """
        if document.get("project_id") != project_id:
            raise InvalidInput(
                f"project_id: expected {project_id}, found {document.get('project_id')}",
                message_zh=f"project_id 应为 {project_id},实际为 {document.get('project_id')}",
            )
        project_of(document)
        async with self._db.write() as conn:
            before = await self._latest(conn, project_id)
            _require_latest(before, version)
            return await self._put(conn, before, document, reason, who, action="project.replace")

    async def finish_stage(
        self, project_id: str, stage: str, *, version: int, actual: date, person: str, evidence: str, who: Principal
    ) -> ProjectRow:
        """Store that a stage is done.

        Raises:
            UnknownProject: There is no such project.
            NotFound: It has no such stage.
            ProjectChanged: ``version`` is not the latest any more.
            InvalidInput: The stage was done before the one ahead of it, or nobody answers for it.
        """
        async with self._db.write() as conn:
            before = await self._latest(conn, project_id)
            _require_latest(before, version)
            stages = list(before.document.get("stages", ()))
            if stage not in [row["name"] for row in stages]:
                raise NotFound(
                    f"project {project_id} has no stage {stage}", message_zh=f"项目 {project_id} 没有阶段 {stage}"
                )
            done = {"actual": actual.isoformat(), "person": person, "evidence": evidence}
            document = {
                **before.document,
                "stages": [{**row, **done} if row["name"] == stage else row for row in stages],
            }
            project_of(document)
            return await self._put(conn, before, document, f"stage {stage} done", who, action="project.finish_stage")

    async def adjust(
        self, project_id: str, measure_id: str, *, energy_kwh: float, reason: str, evidence: str, who: Principal
    ) -> Adjustment:
        """Record a non-routine adjustment of a measure's measured saving.

        Raises:
            UnknownProject: There is no such project.
            NotFound: It has no such measure.
            InvalidInput: Reason or evidence is empty, or the measure is not measured.
        """
        one = Adjustment(
            energy_kwh=energy_kwh, reason=reason, author=who.actor, made_at=self._clock.now(), evidence=evidence
        )
        async with self._db.write() as conn:
            row = await self._latest(conn, project_id)
            measure = measure_of(project_of(row.document), measure_id)
            if measure.measurement is None:
                raise InvalidInput(
                    f"measure {measure_id}: expected one that is measured; only a formula speaks for it",
                    message_zh=f"措施 {measure_id} 未配置实测方案,只有公式估算,不能调整",
                )
            await store.add_adjustment(conn, new_id(), project_id, measure_id, one)
            said = {"measure": measure_id, "energy_kwh": energy_kwh, "evidence": evidence}
            event = audit_event(who, "project.adjust", f"project:{project_id}", one.made_at, after=said, reason=reason)
            await self._audit(conn, event)
        return one

    async def get(self, project_id: str) -> ProjectRow:
        """Return a project as it is.

        Raises:
            UnknownProject: There is none.
        """
        async with self._db.read() as conn:
            return await self._latest(conn, project_id)

    async def history(self, project_id: str) -> Sequence[ProjectRow]:
        """Return every version of a project, oldest first.

        Raises:
            UnknownProject: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_history(conn, project_id)
        if not found:
            raise _unknown(project_id)
        return found

    async def listed(self, *, after: str, limit: int) -> Sequence[ProjectRow]:
        """Return projects by id."""
        async with self._db.read() as conn:
            return await store.fetch_all(conn, after=after, limit=limit)

    async def assess(self, project_id: str) -> AssessedProject:
        """Return what a project saves in a year and whether it pays, each measure by the better of its figures.

        Raises:
            UnknownProject: There is none.
            SavingAboveBaseline: A measured saving is larger than what would have been used.
        """
        async with self._db.read() as conn:
            row = await self._latest(conn, project_id)
            project = project_of(row.document)
            adjustments = await store.fetch_adjustments(conn, project_id)
            found: dict[str, Measurement] = {}
            for measure in project.measures:
                if measure.measurement is not None:
                    found[measure.measure_id] = await self._measurements.measure(
                        conn,
                        measure.circuits,
                        measure.measurement,
                        adjustments=adjustments.get(measure.measure_id, ()),
                    )
        assessment = assess(
            project,
            measured={name: [one.saving] for name, one in found.items()},
            measured_money_cny={}
            if project.prices is None
            else {
                name: project.prices.money_cny(one.by_slot)
                for name, one in found.items()
                if one.saving.saving_kwh is not None
            },
            years=project.years,
            offset_price_cny_per_t=project.offset_price_cny_per_t,
        )
        return AssessedProject(
            row=row, project=project, assessment=assessment, measurements=found, adjustments=adjustments
        )

    async def _latest(self, conn: ReadConn | WriteConn, project_id: str) -> ProjectRow:
        found = await store.fetch_latest(conn, project_id)
        if found is None:
            raise _unknown(project_id)
        return found

    async def _put(
        self,
        conn: WriteConn,
        before: ProjectRow,
        document: Mapping[str, Any],
        reason: str,
        who: Principal,
        *,
        action: str,
    ) -> ProjectRow:
        row = self._row(before.project_id, before.version + 1, document, who, reason)
        if not await store.add_version(conn, row):
            raise _changed(before.project_id, before.version)
        await self._told(conn, action, row, before, who)
        return row

    async def _told(
        self, conn: WriteConn, action: str, row: ProjectRow, before: ProjectRow | None, who: Principal
    ) -> None:
        event = audit_event(
            who,
            action,
            f"project:{row.project_id}",
            row.changed_at,
            before=None if before is None else {"version": before.version},
            after={"version": row.version, "name": row.document["name"]},
            reason=row.reason,
        )
        await self._audit(conn, event)

    def _row(
        self, project_id: str, version: int, document: Mapping[str, Any], who: Principal, reason: str
    ) -> ProjectRow:
        return ProjectRow(project_id, version, document, who.actor, self._clock.now(), reason)


def measure_of(project: Project, measure_id: str) -> Measure:
    """Return a measure of a project.

    Raises:
        NotFound: It has none of that id.
    """
    for one in project.measures:
        if one.measure_id == measure_id:
            return one
    raise NotFound(
        f"project {project.project_id} has no measure {measure_id}",
        message_zh=f"项目 {project.project_id} 没有措施 {measure_id}",
    )


def _require_latest(row: ProjectRow, version: int) -> None:
    if row.version != version:
        raise _changed(row.project_id, row.version)


def _changed(project_id: str, latest: int) -> ProjectChanged:
    return ProjectChanged(
        f"project {project_id} has been changed: its version is {latest}; read it again",
        message_zh=f"项目 {project_id} 已被修改,当前版本为 {latest},请重新读取",
        version=latest,
    )


def _unknown(project_id: str) -> UnknownProject:
    return UnknownProject(f"there is no project {project_id}", message_zh=f"没有项目 {project_id}")
