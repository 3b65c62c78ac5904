"""SQL of what has been kept for long enough."""

from datetime import datetime

from libs.common.db import WriteConn


async def prune(conn: WriteConn, *, deliveries_before: datetime, samples_before: datetime, states_before: datetime,
                limit: int) -> int:  # fmt: skip
    """Delete what has been kept long enough, at most ``limit`` rows of each kind; return how many went.

    A BEGIN stays as long as its END is not finished: the END takes the serial number from it.
    """
    gone = 0
    for statement, before in (
        (
            """
            delete from deliveries where id in (
                select d.id from deliveries d
                 where d.finished_at < $1
                   and (d.step = 'end' or exists (
                        select from deliveries e
                         where e.unit_key = d.unit_key and e.alarm_id = d.alarm_id and e.sc_device_id = d.sc_device_id
                           and e.point_id = d.point_id and e.step = 'end' and e.finished_at < $1)
                        or exists (select from units u where u.key = d.unit_key and u.phase = 'left'))
                 order by d.finished_at, d.step limit $2)
            """,
            deliveries_before,
        ),
        (
            "delete from hourly_samples where ctid in (select ctid from hourly_samples where hour < $1 limit $2)",
            samples_before,
        ),
        (
            "delete from alarm_states where alarm_id in "
            "(select alarm_id from alarm_states where ended_at < $1 limit $2)",
            states_before,
        ),
        ("delete from sc_orders where id in (select id from sc_orders where received_at < $1 limit $2)",
         deliveries_before),
    ):  # fmt: skip
        done: str = await conn.execute(statement, before, limit)
        gone += int(done.split()[-1])
    return gone
