"""What ingest tells Prometheus; names as in the project's list of metric families."""

from functools import cache

from libs.common import metrics

POINTS = metrics.counter("ingest_points_total", "Points of reports, by what became of them", ("protocol", "outcome"))
DROPPED = metrics.counter("ingest_dropped_points_total", "Points that were lost on purpose", ("reason",))
EVENTS = metrics.counter("ingest_device_events_total", "Alarms and events that devices sent", ("protocol",))
REJECTED = metrics.counter("ingest_rejected_total", "Reports that were not taken", ("reason",))
BUFFER_BYTES = metrics.gauge("ingest_buffer_bytes", "Bytes in the local spool")
BUFFER_RECORDS = metrics.gauge("ingest_buffer_records", "Messages in the local spool")
SPOOLED = metrics.counter("ingest_spooled_total", "Messages that went to the spool because the bus did not take them")
REFUSED = metrics.counter("ingest_refused_total", "Messages refused because the spool is full")
POLL_SECONDS = metrics.histogram(
    "ingest_poll_duration_seconds", "Time to read one device once", ("protocol",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)  # fmt: skip
POLL_OVERRUNS = metrics.counter("ingest_poll_overrun_total", "Polls that were due and could not be done", ("protocol",))
POLLS = metrics.counter("ingest_polls_total", "Attempts to read a device", ("protocol", "outcome"))
DEVICE_STATE = metrics.gauge("ingest_device_state", "Devices polled by this process, by connectivity", ("state",))
LINES_HELD = metrics.gauge("ingest_lines_held", "Lines that this process holds under a lease")
DTU_CONNECTIONS = metrics.gauge("ingest_dtu_connections", "Terminals that have dialled in to this process")
DTU_REFUSED = metrics.counter("ingest_dtu_refused_total", "Connections at the terminals' port that were not wanted")
HISTORY_ROWS = metrics.counter("ingest_history_reports_total", "Reports handled by the history", ("outcome",))
HISTORY_SECONDS = metrics.histogram("ingest_history_batch_seconds", "Time to store one batch of reports")
COMMANDS = metrics.counter("ingest_commands_total", "Commands at the line, by stage reached", ("action", "stage"))
OFF_LEASES = metrics.gauge("ingest_off_leases", "Loads that this process has opened and must close again")
OVERDUE_CLOSINGS = metrics.gauge("ingest_overdue_closings", "Loads past their restore time and not seen closed")
PARKED = metrics.gauge("ingest_parked_reports", "Reports of unknown devices that wait for the registry")
PUSHES = metrics.counter("ingest_pushes_total", "Messages pushed by the device platform", ("kind", "outcome"))
pushes_of = cache(PUSHES.labels)
"""Its part of a kind and an outcome, looked up for each push."""
RECOVERED = metrics.counter("ingest_recovered_reports_total", "Reports of gaps that came out of devices' memories")
PULLED = metrics.counter("ingest_pulled_rows_total", "Rows of other systems, by what became of them", ("outcome",))
