"""SQL of where the diagnosis of an alarm's device stands (分析状态)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.db import ReadConn
from services.alarm.views import AlarmRow


@dataclass(frozen=True, slots=True)
class DiagnosisStanding:
    """The diagnosis of an alarm's device while the alarm lasted."""

    state: str
    """``none``, ``waiting`` (the device is to be looked at), ``found`` or ``closed``."""
    diagnosis_id: str | None = None
    cause: str | None = None
    confidence: str | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None


async def fetch_diagnosis_standings(conn: ReadConn, alarms: Sequence[AlarmRow]) -> dict[str, DiagnosisStanding]:
    """Return where diagnosis stands for alarms, by alarm: the one made for it, else the last one in its time."""
    rows = await conn.fetch(
        """
        select a.alarm_id, d.diagnosis_id, d.cause, d.confidence, d.began_at, d.ended_at,
               (w.device_id is not null and a.ended_at is null) as wanted
          from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
            as a (alarm_id, device_id, began_at, ended_at)
          left join lateral (
               select diagnosis_id, cause, confidence, began_at, ended_at
                 from diagnoses
                where device_id = a.device_id
                  and (alarm_id = a.alarm_id
                       or (began_at <= coalesce(a.ended_at, 'infinity')
                           and coalesce(ended_at, 'infinity') >= a.began_at))
                order by (alarm_id is not distinct from a.alarm_id) desc, began_at desc
                limit 1
               ) d on true
          left join diagnosis_wanted w on w.device_id = a.device_id
        """,
        [alarm.alarm_id for alarm in alarms],
        [alarm.device_id for alarm in alarms],
        [alarm.began_at for alarm in alarms],
        [alarm.ended_at for alarm in alarms],
    )
    found: dict[str, DiagnosisStanding] = {}
    for row in rows:
        if row["diagnosis_id"] is None:
            found[row["alarm_id"]] = DiagnosisStanding("waiting" if row["wanted"] else "none")
        else:
            found[row["alarm_id"]] = DiagnosisStanding(
                "found" if row["ended_at"] is None else "closed",
                row["diagnosis_id"],
                row["cause"],
                row["confidence"],
                row["began_at"],
                row["ended_at"],
            )
    return found
