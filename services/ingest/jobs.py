"""Long work of ingest, done by the job worker: large imports, and days of the history that go into files."""

import sys
from collections.abc import Mapping
from datetime import date
from typing import Any

from libs.common.jobs import Handler, JobContext
from libs.common.jobworker import run_worker
from libs.common.profiles import ProfileCatalogue
from libs.common.settings import load_common, load_section
from services.ingest.domain.acceptance import Limits
from services.ingest.settings import IngestSettings
from services.ingest.store.coldfiles import open_cold_files
from services.ingest.store.days import COOL_JOB
from services.ingest.usecases.cooling import Cooling
from services.ingest.usecases.imports import READINGS_JOB, REGISTRY_JOB, Imports, Kind
from services.ingest.usecases.registry import Registry


async def _import(context: JobContext, kind: Kind) -> Mapping[str, Any]:
    settings = load_section("ingest", IngestSettings)
    catalogue = ProfileCatalogue.load(load_common().profile_dirs)

    def published() -> None:
        """The relay, which runs in another process, looks by itself."""

    registry = Registry(context.db, context.clock, catalogue, published)
    imports = Imports(
        db=context.db,
        clock=context.clock,
        registry=registry,
        catalogue=catalogue,
        limits=limits_of(settings),
        published=published,
    )
    payload = context.job.payload
    return await imports.run(
        payload["import_id"],
        kind,
        payload["file"],
        context.body or b"",
        payload["actor"],
        dry_run=payload["dry_run"],
        timezone=payload.get("timezone"),
        progress=context.progress,
        done=context.job.done,
    )


async def _cool(context: JobContext) -> Mapping[str, Any]:
    settings = load_section("ingest", IngestSettings)
    files = open_cold_files(settings.history.cold)
    if files is None:
        return {"outcome": "no place for cold days is configured"}
    cooling = Cooling(db=context.db, files=files, clock=context.clock)
    return await cooling.cool(date.fromisoformat(context.job.payload["day"]), context.progress)


async def _import_registry(context: JobContext) -> Mapping[str, Any]:
    return await _import(context, "registry")


async def _import_readings(context: JobContext) -> Mapping[str, Any]:
    return await _import(context, "readings")


def limits_of(settings: IngestSettings) -> Limits:
    """Return what is believed of a report."""
    return Limits(
        max_skew_s=settings.acceptance.max_skew_s,
        max_future_s=settings.acceptance.max_future_s,
        max_lateness_s=settings.acceptance.max_lateness_s,
        max_age_s=settings.history.retention_days * 86400.0,
    )


JOB_HANDLERS: Mapping[str, Handler] = {REGISTRY_JOB: _import_registry, READINGS_JOB: _import_readings, COOL_JOB: _cool}


def main() -> int:
    """Run ingest's job worker alone; return the exit code."""
    return run_worker({"ingest": JOB_HANDLERS})


if __name__ == "__main__":
    sys.exit(main())
