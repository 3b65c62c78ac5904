"""Reports as the rows of a Parquet file, and back.

Columns, sorted by ``device_id`` and ``source_time``, which together are unique:

    device_id: String
    source_time: Datetime[us, UTC]
    lag_us: Int64 [us]      ``received_at`` - ``source_time``
    late, moved: Boolean
    driver, profile, profile_version: String
    ct_ratio, pt_ratio, energy_ratio: Float64 [1]
    layout: Int32           how the report was packed; only for checks
    quality: String         JSON object point -> flag, of the points that are not good; null when all are
    extra: String           JSON object: raw numbers, seq, message_id and the like; null for most
    one column per point: Float32 for gauges, Float64 for counters and whatever must not lose a digit; null: no value
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from services.ingest.domain.corrections import in_its_place, takes_place_of, was_replaced_by
from services.ingest.domain.layout import Layout, Matrix, fits_float32, shortest
from services.ingest.domain.series import Series, Times
from services.ingest.domain.stored import RowFlag
from services.ingest.store.history import PackedBlock, times_of

UTC_TIME = pl.Datetime("us", "UTC")
META: Mapping[str, pl.DataType] = {
    "device_id": pl.String(),
    "source_time": UTC_TIME,
    "lag_us": pl.Int64(),
    "late": pl.Boolean(),
    "moved": pl.Boolean(),
    "driver": pl.String(),
    "profile": pl.String(),
    "profile_version": pl.String(),
    "ct_ratio": pl.Float64(),
    "pt_ratio": pl.Float64(),
    "energy_ratio": pl.Float64(),
    "layout": pl.Int32(),
    "quality": pl.String(),
    "extra": pl.String(),
}
KEY = ("device_id", "source_time")
_NOT_CONTENT = frozenset({"lag_us", "late", "layout", "extra", "moved"})
"""Two deliveries of one report may differ in these."""


@dataclass(frozen=True, slots=True)
class Block:
    """Reports of one device in one layout, the oldest first."""

    device_id: str
    layout_no: int
    times: Times
    received: Times
    flags: npt.NDArray[np.int16]
    bodies: bytes
    """One behind the other."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """What few reports have."""

    device_id: str
    source_time: datetime
    layout_no: int
    quality: bytes | None
    extra: Mapping[str, Any] | None


def unpacked(packed: PackedBlock, device_id: str) -> Block:
    """Return a block as it comes out of the database."""
    return Block(
        device_id=device_id,
        layout_no=packed.layout_no,
        times=times_of(packed.times),
        received=times_of(packed.received),
        flags=np.frombuffer(packed.flags, dtype=">i2").astype(np.int16),
        bodies=packed.bodies,
    )


def frame_of(
    blocks: Sequence[Block], oddities: Sequence[Oddity], layouts: Mapping[int, Layout], points: Sequence[str]
) -> pl.DataFrame:
    """Return reports as sorted rows, with a column for each of ``points``, which are at least theirs."""
    by_layout: dict[int, list[Block]] = {}
    for block in blocks:
        by_layout.setdefault(block.layout_no, []).append(block)
    parts = [_frame_of_layout(number, layouts[number], group) for number, group in by_layout.items()]
    frame = with_points(pl.concat(parts, how="diagonal") if parts else pl.DataFrame(schema=META), points)
    if oddities:
        odd = pl.DataFrame(
            {
                "device_id": [one.device_id for one in oddities],
                "source_time": [one.source_time for one in oddities],
                "quality": [_quality_json(layouts[one.layout_no], one.quality) for one in oddities],
                "extra": [None if one.extra is None else orjson.dumps(one.extra).decode() for one in oddities],
            },
            schema={name: META[name] for name in ("device_id", "source_time", "quality", "extra")},
        )
        frame = frame.drop("quality", "extra").join(odd, on=KEY, how="left").select(frame.columns)
    return frame.sort(KEY)


def with_points(frame: pl.DataFrame, points: Sequence[str]) -> pl.DataFrame:
    """Return a frame with all columns in their order, those that it lacks null."""
    schema = {**META, **{name: _type_of(name) for name in sorted(points)}}
    lacking = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in schema.items() if name not in frame.columns]
    return frame.with_columns(lacking).select(*schema)


def points_of(columns: Sequence[str]) -> list[str]:
    """Return the points among a file's columns."""
    return [name for name in columns if name not in META]


def bodies_of(frame: pl.DataFrame, layouts: Mapping[int, Layout]) -> dict[tuple[str, int], bytes]:
    """Return the packed reports of a frame, one behind the other, per device and layout; the inverse of ``frame_of``.

    Raises:
        DoesNotFit: A value is not the one that was packed.
    """
    found: dict[tuple[str, int], bytes] = {}
    for (device_id, number), group in frame.group_by("device_id", "layout", maintain_order=True):
        layout = layouts[int(number)]
        values = matrix_of(group, layout.points)
        found[str(device_id), int(number)] = b"".join(layout.pack(values))
    return found


def matrix_of(frame: pl.DataFrame, points: Sequence[str]) -> Matrix:
    """Return the values of points, shape (reports, points), NaN where there is none."""
    values = np.full((len(frame), len(points)), np.nan)
    for place, name in enumerate(points):
        if name in frame.columns:
            column = frame[name].fill_null(float("nan")).to_numpy()
            values[:, place] = shortest(column) if frame.schema[name] == pl.Float32 else column
    return values


def hours_of(frame: pl.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
    """Return how many reports of one day each device has in each hour, shape (24,); moved ones are not counted."""
    counted = (
        frame.group_by("device_id", pl.col("source_time").dt.hour().alias("hour"))
        .agg((~pl.col("moved")).sum().alias("reports"))
        .rows()
    )
    found: dict[str, npt.NDArray[np.int64]] = {}
    for device_id, hour, reports in counted:
        found.setdefault(device_id, np.zeros(24, dtype=np.int64))[hour] = reports
    return found


def series_of(frame: pl.DataFrame) -> Series:
    """Return the points of one device's reports, in order, as columns of numbers."""
    names = points_of(frame.columns)
    return Series(frame["source_time"].dt.epoch("us").to_numpy(), tuple(names), matrix_of(frame, names))


def merged(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Return reports that are in a file and reports that have come since, each once, sorted.

    A report that is in both is taken once. A correction takes the place of what it corrects. Another one, under a time
    that is taken, is put a microsecond behind it and marked: both are kept.
    """
    points = sorted({*points_of(old.columns), *points_of(new.columns)})
    old, new = with_points(old, points), with_points(new, points)
    both = new.join(old, on=KEY, how="inner", suffix=_OLD)
    if both.is_empty():
        return pl.concat([old, new]).sort(KEY)
    content = [name for name in new.columns if name not in KEY and name not in _NOT_CONTENT]
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}{_OLD}")) for name in content)
    corrections, others = _sorted_out(both.filter(~same), new.schema)
    standing = old.join(corrections, on=KEY, how="anti") if len(corrections) else old
    frame = pl.concat([standing, corrections, new.join(old, on=KEY, how="anti")])
    return pl.concat([frame, _moved(others, frame, content)]).sort(KEY) if len(others) else frame.sort(KEY)


def _sorted_out(both: pl.DataFrame, schema: pl.Schema) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return those that correct what stands under their time, and those that are other reports.

    One that has been corrected, and is delivered again, is neither.
    """
    corrections: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for record in both.to_dicts():
        report, standing = _loaded(record["extra"]), _loaded(record[f"extra{_OLD}"])
        row = {name: record[name] for name in schema}
        if takes_place_of(report, standing):
            corrections.append({**row, "extra": orjson.dumps(in_its_place(report, standing)).decode()})
        elif not was_replaced_by(report, standing):
            others.append(row)
    return pl.DataFrame(corrections, schema=schema), pl.DataFrame(others, schema=schema)


def _moved(rows: pl.DataFrame, beside: pl.DataFrame, content: Sequence[str]) -> pl.DataFrame:
    """Return rows under the next free times, marked; without those that an earlier attempt has put there."""
    here = beside.filter(pl.col("device_id").is_in(rows["device_id"].unique().to_list())).to_dicts()
    taken = {(record["device_id"], record["source_time"]): [record[name] for name in content] for record in here}
    found: list[dict[str, Any]] = []
    for record in rows.to_dicts():
        device_id, at, said = record["device_id"], record["source_time"], [record[name] for name in content]
        while taken.get((device_id, at), said) != said:
            at += timedelta(microseconds=1)
        if (device_id, at) in taken:
            continue
        taken[device_id, at] = said
        extra = _loaded(record["extra"])
        extra.setdefault("source_time", record["source_time"].isoformat())
        behind_us = (at - record["source_time"]) // timedelta(microseconds=1)
        record.update(
            source_time=at, lag_us=record["lag_us"] - behind_us, moved=True, extra=orjson.dumps(extra).decode()
        )
        found.append(record)
    return pl.DataFrame(found, schema=rows.schema)


_OLD = ":old"


def _frame_of_layout(number: int, layout: Layout, blocks: Sequence[Block]) -> pl.DataFrame:
    lengths = [len(block.times) for block in blocks]
    times = np.concatenate([block.times for block in blocks])
    received = np.concatenate([block.received for block in blocks])
    flags = np.concatenate([block.flags for block in blocks])
    values = layout.unpack_blob(b"".join(block.bodies for block in blocks), len(times))
    ids = pl.Series([block.device_id for block in blocks])
    columns: dict[str, Any] = {
        "device_id": ids.gather(np.repeat(np.arange(len(blocks)), lengths)),
        "source_time": pl.Series(times).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        "lag_us": received - times,
        "late": (flags & RowFlag.BACKFILL) != 0,
        "moved": (flags & RowFlag.MOVED) != 0,
    }
    frame = pl.DataFrame(columns).with_columns(
        pl.lit(layout.driver, pl.String).alias("driver"),
        pl.lit(layout.profile, pl.String).alias("profile"),
        pl.lit(layout.profile_version, pl.String).alias("profile_version"),
        pl.lit(layout.ct_ratio, pl.Float64).alias("ct_ratio"),
        pl.lit(layout.pt_ratio, pl.Float64).alias("pt_ratio"),
        pl.lit(layout.energy_ratio, pl.Float64).alias("energy_ratio"),
        pl.lit(number, pl.Int32).alias("layout"),
        pl.lit(None, pl.String).alias("quality"),
        pl.lit(None, pl.String).alias("extra"),
    )
    return frame.with_columns(
        pl.Series(name, values[:, column]).fill_nan(None).cast(_type_of(name))
        for column, name in enumerate(layout.points)
    )


def _type_of(point: str) -> pl.DataType:
    return pl.Float32() if fits_float32(point) else pl.Float64()


def _loaded(extra: str | None) -> dict[str, Any]:
    return {} if extra is None else dict(orjson.loads(extra))


def _quality_json(layout: Layout, packed: bytes | None) -> str | None:
    flags = layout.unpack_quality(packed)
    return orjson.dumps(dict(sorted(flags.items()))).decode() if flags else None
