"""Long work of export, done by the job worker: the files of exports, and records that come in on their way."""

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from libs.common.client import ServiceClient
from libs.common.jobs import Handler, JobContext
from libs.common.jobworker import run_worker
from libs.common.registry import RegistryView
from libs.common.settings import CommonSettings, load_common, load_section
from libs.common.tokens import KeyRing
from services.export.exports.making import EXPORT_JOB, ExportMaker
from services.export.exports.sites import RegistrySites
from services.export.exports.sources import ServiceSource
from services.export.records.places import RegistryPlaces
from services.export.records.taking import RECORDS_JOB, RecordTaker
from services.export.settings import ExportSettings

ASKED = ("carbon", "ingest", "alarm")
"""Who owns what stands in the files."""


def exports_folder(settings: ExportSettings, common: CommonSettings) -> Path:
    """Return where the files of exports lie until they are brought; the service and its job worker share it."""
    return settings.exports.folder or common.data_dir / "exports"


async def _export(context: JobContext) -> Mapping[str, Any]:
    common, settings = load_common(), load_section("export", ExportSettings)
    keys = KeyRing.open(common.effective_keys_dir, context.clock)
    view = RegistryView(bus=None, db=context.db, clock=context.clock)
    await view.load_stored()
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                ServiceClient(
                    keys, common.service_urls.get(name), caller="export", audience=name, scopes=(f"{name}:read",)
                )
            )
            for name in ASKED
        }
        maker = ExportMaker(
            source=ServiceSource(**clients, sites=RegistrySites(view, context.clock)),
            root=exports_folder(settings, common),
            max_file_bytes=settings.exports.max_file_bytes,
        )
        return await maker.make(context)


async def _records(context: JobContext) -> Mapping[str, Any]:
    common = load_common()
    keys = KeyRing.open(common.effective_keys_dir, context.clock)
    view = RegistryView(bus=None, db=context.db, clock=context.clock)
    await view.load_stored()
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(
                ServiceClient(
                    keys, common.service_urls.get(name), caller="export", audience=name,
                    scopes=(f"{name}:read", f"{name}:write"),
                )
            )
            for name in ("ingest", "carbon")
        }  # fmt: skip
        taker = RecordTaker(**clients, places=lambda: RegistryPlaces(view, context.clock))
        return await taker.take(context)


JOB_HANDLERS: Mapping[str, Handler] = {EXPORT_JOB: _export, RECORDS_JOB: _records}


def main() -> int:
    """Run export's job worker alone; return the exit code."""
    return run_worker({"export": JOB_HANDLERS})


if __name__ == "__main__":
    sys.exit(main())
