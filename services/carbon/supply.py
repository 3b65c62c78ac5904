"""What samples say of circuits: exported and reactive energy by quarter hour, currents and voltages.

Registers of samples are corrected and aligned as those of imported energy are, but when they are asked for: they
explain a supply and are never billed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from libs.common.db import ReadConn
from libs.common.ids import CircuitId, DeviceId
from services.carbon.directory import RegistryDirectory
from services.carbon.domain.booking import Binding, Registers, series_of
from services.carbon.domain.intervals import GAP_MAX_STEPS, STEP_S, align
from services.carbon.domain.levels.energy import SCHEMA
from services.carbon.domain.registers import accumulate
from services.carbon.domain.samples import CURRENTS, LINE_VOLTAGES, Sample
from services.carbon.store import levels as store

MARGIN = timedelta(seconds=GAP_MAX_STEPS * STEP_S)
"""Samples this far around a span bear on its intervals."""
PHASES: dict[str, pl.DataType | type[pl.DataType]] = {
    "circuit_id": pl.String,
    "start": pl.Datetime("us", "UTC"),
    **dict.fromkeys((*CURRENTS, *LINE_VOLTAGES), pl.Float64),
}

Samples = Mapping[tuple[DeviceId, str], Sequence[Sample]]


async def read_samples(
    conn: ReadConn,
    directory: RegistryDirectory,
    circuits: Iterable[CircuitId],
    points: Sequence[str],
    start: datetime,
    end: datetime,
) -> Samples:
    """Return the samples of the meters of circuits around ``[start, end)``, by device and point."""
    devices = {binding.device_id for circuit in circuits for binding in directory.bindings_of(circuit)}
    found: dict[tuple[DeviceId, str], list[Sample]] = {}
    for one in await store.fetch_samples(conn, sorted(devices), points, start - MARGIN, end + MARGIN):
        found.setdefault((one.device_id, one.point), []).append(one)
    return found


def counting(binding: Binding, point: str) -> Binding:
    """Return a binding for another register of its meter: those of the exchange are of imported energy."""
    return replace(binding, initial_register=None, final_register=None, modulus_kwh=None, resets=(), point=point)


def register_frame(
    directory: RegistryDirectory,
    samples: Samples,
    circuits: Iterable[CircuitId],
    point: str,
    start: datetime,
    end: datetime,
) -> pl.DataFrame:
    """Return the energy that a register of circuits counted, as a frame of intervals of ``[start, end)``.

    Circuits whose meters have no such register have no rows.
    """
    frames = [pl.DataFrame(schema=SCHEMA)]
    for circuit in circuits:
        series = [
            one
            for binding in directory.bindings_of(circuit)
            if (rows := samples.get((binding.device_id, point)))
            for one in series_of(
                counting(binding, point),
                Registers.of([(row.source_time, row.value, row.ratio, False) for row in rows]),
                directory.rated_kw(circuit),
            )
        ]
        if not series:
            continue
        found = align(accumulate(series), first=start.timestamp(), last=end.timestamp())
        size = found.start.size
        frames.append(
            pl.DataFrame(
                {
                    "circuit_id": [circuit] * size,
                    "start": pl.from_epoch(pl.Series(found.start.astype(np.int64)), "s").dt.replace_time_zone("UTC"),
                    "energy_kwh": pl.Series(found.energy_kwh).fill_nan(None),
                    "grade": found.grade,
                    "lower_bound": found.lower_bound,
                    "uncertain": np.zeros(size, np.bool_),
                    "provisional": np.zeros(size, np.bool_),
                },
                schema=SCHEMA,
            )
        )
    return pl.concat(frames)


def phase_frame(
    directory: RegistryDirectory, samples: Samples, circuits: Iterable[CircuitId], start: datetime, end: datetime
) -> pl.DataFrame:
    """Return the currents [A] and line voltages [V] of circuits by quarter hour, null where nobody said them."""
    rows: dict[tuple[CircuitId, datetime], dict[str, float]] = {}
    for circuit in circuits:
        for binding in directory.bindings_of(circuit):
            for point in (*CURRENTS, *LINE_VOLTAGES):
                for one in samples.get((binding.device_id, point), ()):
                    served = binding.valid_from <= one.source_time and (
                        binding.valid_to is None or one.source_time < binding.valid_to
                    )
                    if served and start <= one.source_time < end:
                        rows.setdefault((circuit, one.slot.astimezone(UTC)), {})[point] = one.value
    return pl.DataFrame(
        [
            (circuit, slot, *(said.get(point) for point in (*CURRENTS, *LINE_VOLTAGES)))
            for (circuit, slot), said in sorted(rows.items())
        ],
        schema=PHASES,
        orient="row",
    )
