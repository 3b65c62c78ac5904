"""Device status: the table of what was last told, and the telling, in one transaction."""

from collections.abc import Mapping, Sequence

import orjson

from libs.common.bus import envelope, outbox, topics
from libs.common.bus.port import Message
from libs.common.contracts.device import Battery, Connectivity, DeviceStatus, RadioSignal, SimState
from libs.common.db import Database, ReadConn
from libs.common.ids import DeviceId, LineId, SiteId
from services.ingest.bus import SOURCE
from services.ingest.usecases.status import StatusRow


class PgStatusStore:
    """The table ``device_status``; implements ``StatusStore``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def load(self, device_ids: Sequence[str]) -> Mapping[str, StatusRow]:
        """Return what was last told about devices."""
        async with self._db.read() as conn:
            rows = await conn.fetch(
                """
                select device_id, site_id, connectivity, since, last_report_at, reason, line_id, published_at, texts,
                       signal, battery, sim
                  from device_status where device_id = any($1::text[])
                """,
                device_ids,
            )
        return {
            row["device_id"]: StatusRow(
                **{
                    **dict(row.items()),
                    "connectivity": Connectivity(row["connectivity"]),
                    "texts": orjson.loads(row["texts"]),
                    "signal": RadioSignal.from_json(row["signal"]),
                    "battery": Battery.from_json(row["battery"]),
                    "sim": SimState.from_json(row["sim"]),
                }
            )
            for row in rows
        }

    async def publish(self, rows: Sequence[StatusRow]) -> None:
        """Keep and publish, in one transaction."""
        ordered = sorted(rows, key=lambda row: row.device_id)
        async with self._db.write() as conn:
            await conn.execute(
                """
                insert into device_status
                       (device_id, site_id, connectivity, since, last_report_at, reason, line_id, published_at, texts,
                        signal, battery, sim)
                select * from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[],
                                     $6::text[], $7::text[], $8::timestamptz[], $9::jsonb[], $10::jsonb[], $11::jsonb[],
                                     $12::jsonb[])
                on conflict (device_id) do update
                   set site_id = excluded.site_id, connectivity = excluded.connectivity, since = excluded.since,
                       last_report_at = excluded.last_report_at, reason = excluded.reason,
                       line_id = excluded.line_id, published_at = excluded.published_at, texts = excluded.texts,
                       signal = excluded.signal, battery = excluded.battery, sim = excluded.sim
                """,
                [row.device_id for row in ordered],
                [row.site_id for row in ordered],
                [row.connectivity.value for row in ordered],
                [row.since for row in ordered],
                [row.last_report_at for row in ordered],
                [row.reason for row in ordered],
                [row.line_id for row in ordered],
                [row.published_at for row in ordered],
                [orjson.dumps(row.texts).decode() for row in ordered],
                [row.signal.to_json().decode() for row in ordered],
                [row.battery.to_json().decode() for row in ordered],
                [row.sim.to_json().decode() for row in ordered],
            )
            await outbox.put(conn, [status_message(row) for row in ordered])


def status_message(row: StatusRow) -> Message:
    """Return the message that tells a device's status."""
    status = DeviceStatus(
        device_id=DeviceId(row.device_id),
        site_id=SiteId(row.site_id),
        connectivity=row.connectivity,
        texts=row.texts,
        signal=row.signal,
        battery=row.battery,
        sim=row.sim,
        last_report_at=row.last_report_at,
        connectivity_since=row.since,
        line_id=None if row.line_id is None else LineId(row.line_id),
        reason=row.reason,
    )
    return envelope.message(
        topics.DEVICE_STATUS,
        row.device_id,
        status,
        source=SOURCE,
        time=row.published_at,
        partition_key=row.site_id,
        subject=row.device_id,
    )


async def fetch_online(conn: ReadConn, device_ids: Sequence[str]) -> frozenset[str]:
    """Return those of the devices that were last told to be online."""
    rows = await conn.fetch(
        "select device_id from device_status where connectivity = $1 and device_id = any($2::text[])",
        Connectivity.ONLINE.value,
        device_ids,
    )
    return frozenset(row["device_id"] for row in rows)
