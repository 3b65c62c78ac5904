"""Traces of load rates: how far transformers and lines were loaded, down to active and reactive registers."""

import asyncio
import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from libs.common.errors import NotFound
from libs.common.ids import CircuitId
from services.carbon.domain.booking import floor
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.levels.electrical import ASSUMED_PF, BANDS, Rating, apparent_power
from services.carbon.domain.levels.energy import STEPS_PER_HOUR
from services.carbon.domain.why import Because, InputKind, Quality, Question, Rule, Why
from services.carbon.tree import NodeKind
from services.carbon.usecases.supply import Loading, Supply
from services.carbon.usecases.why.asked import Figure, LoadBand, Wanted, missing, question, stamp, why

QUARTER = timedelta(seconds=STEP_S)


class LoadWhys:
    """Traces of what ``Supply.load_rates`` answers; each is of a site's transformer or line."""

    def __init__(self, supply: Supply) -> None:
        self._supply = supply

    async def load_rate(self, wanted: Wanted) -> Why:
        """Return the highest load rate of a span as that of one of its quarter hours."""
        found, rates = await self._rates(wanted)
        inputs = _quarters(wanted, rates)
        highest = max((one for _, one, _ in rates), default=None)
        quality = _known(found, rates)
        marks = _marks(rates)
        return why(wanted, value=highest, unit="1", rule=Rule.HIGHEST, inputs=inputs, marks=marks, quality=quality)

    async def load_mean(self, wanted: Wanted) -> Why:
        """Return the mean load rate of a span's known quarter hours."""
        found, rates = await self._rates(wanted)
        inputs = _quarters(wanted, rates)
        value = None if not inputs else _mean([rate for _, rate, _ in rates])
        quality = _known(found, rates)
        return why(wanted, value=value, unit="1", rule=Rule.MEAN, inputs=inputs, marks=_marks(rates), quality=quality)

    async def load_time(self, wanted: Wanted) -> Why:
        """Return the share of the known quarter hours in which the load rate lay within a band."""
        if wanted.band is None:
            raise missing("band")
        found, rates = await self._rates(wanted)
        inside = sum(_band(rate) is wanted.band for _, rate, _ in rates)
        text = f"quarter hours with a figure, which figure={Figure.LOAD_MEAN.value} lists with their load rates"
        inputs = [
            Because(name=name, value=float(count), unit="1", kind=InputKind.PARAMETER, source=source)
            for name, count, source in (
                (f"quarter hours {wanted.band.value}", inside, _limits(wanted.band)),
                ("quarter hours", len(rates), text),
            )
        ]
        value = inside / len(rates) if rates else None
        quality, marks = _known(found, rates), _marks(rates)
        return why(wanted, value=value, unit="1", rule=Rule.QUOTIENT, inputs=inputs, marks=marks, quality=quality)

    async def load_quarter(self, wanted: Wanted) -> Why:
        """Return the load rate of one quarter hour as apparent over rated power."""
        at, found = await self._quarter(wanted)
        rows = apparent_power(found.power()).filter(pl.col("start") == at)
        kva = None if rows.is_empty() else rows["kva"][0]
        rated = found.rated_kva
        inputs = [
            Because(
                name="S",
                value=kva,
                unit="kVA",
                kind=InputKind.FIGURE,
                id=wanted.place.id,
                start=at,
                question=None if kva is None else _asked(Figure.APPARENT, wanted, at),
            ),
            Because(
                name="S_rated",
                value=rated,
                unit="kVA",
                kind=InputKind.FACT,
                id=f"{found.site}/{found.what.value}/{found.name}",
                source="entered facts, weighted by their days; of all transformers of a site their sum",
            ),
        ]
        value = None if kva is None or not rated else kva / rated
        return why(wanted, value=value, unit="1", rule=Rule.QUOTIENT, inputs=inputs)

    async def apparent(self, wanted: Wanted) -> Why:
        """Return the apparent power of a quarter hour by the active and reactive energies of its circuits."""
        at, found = await self._quarter(wanted)
        rows = apparent_power(found.power()).filter(pl.col("start") == at)
        times = Because(name="quarter hours", value=STEPS_PER_HOUR, unit="1/h", kind=InputKind.PARAMETER)
        if rows.is_empty():
            return why(wanted, value=None, unit="kVA", rule=Rule.APPARENT, inputs=[times], withheld=True)
        kva, assumed = rows["kva"][0], rows["assumed"][0]
        stood_in = set(
            found.found.intervals.filter((pl.col("start") == at) & pl.col("from_parts"))["circuit_id"].to_list()
        )
        inputs = [times]
        if assumed:
            untold = "nobody measured the reactive energy"
            inputs.append(Because(name="PF", value=ASSUMED_PF, unit="1", kind=InputKind.PARAMETER, source=untold))
        for circuit, active, reactive in found.by_circuit(at):
            inputs.append(_active(circuit, active, at, parts=circuit in stood_in))
            if not assumed:
                inputs.append(_reactive(circuit, reactive, at))
        rule = Rule.BY_FACTOR if assumed else Rule.APPARENT
        return why(wanted, value=kva, unit="kVA", rule=rule, inputs=inputs, marks=_assumed(assumed))

    async def reactive(self, wanted: Wanted) -> Why:
        """Return the reactive energy of a circuit's quarter hour as the sum of its meter's registers."""
        if wanted.place.kind is not NodeKind.CIRCUIT or wanted.start is None:
            raise missing("circuit, start")
        at = floor(wanted.start)
        counted = await self._supply.reactive_of(CircuitId(wanted.place.id), at)
        inputs = [
            Because(
                name=point,
                value=value,
                unit="kvarh",
                kind=InputKind.REGISTER,
                id=wanted.place.id,
                start=at,
                question={
                    "figure": Figure.DELIVERED.value, "circuit": wanted.place.id, "start": stamp(at), "point": point,
                },
            )
            for point, value in counted.items()
        ]  # fmt: skip
        known = [value for value in counted.values() if value is not None]
        value = sum(known) if known and len(known) == len(counted) else None
        return why(wanted, value=value, unit="kvarh", rule=Rule.WHOLE_SUM, inputs=inputs)

    async def _rates(self, wanted: Wanted) -> tuple[Loading, list[tuple[datetime, float, bool]]]:
        """Return what was asked for, and (start, load rate, whether a power factor is assumed) of each quarter hour."""
        found = await self._loading(wanted, *wanted.span)
        rated = found.rated_kva
        if not rated:
            return found, []
        rows = await asyncio.to_thread(lambda: apparent_power(found.power()))
        return found, list(rows.select("start", pl.col("kva") / rated, "assumed").iter_rows())

    async def _quarter(self, wanted: Wanted) -> tuple[datetime, Loading]:
        """Return a quarter hour of the span that is asked about; the ratings are those of the whole span."""
        at = wanted.at
        if at is None:
            raise missing("at")
        return floor(at), await self._loading(wanted, *wanted.span)

    async def _loading(self, wanted: Wanted, start: datetime, end: datetime) -> Loading:
        if wanted.rating is None:
            raise missing("rating")
        for one in await self._supply.loads(wanted.place, start, end):
            if (one.what, one.name) == (wanted.rating, wanted.line or ""):
                return one
        raise NotFound(
            f"line: {wanted.place.kind} {wanted.place.id} has no {wanted.rating} {wanted.line or ''}",
            message_zh=f"line:{wanted.place.id} 没有名为 {wanted.line or ''} 的变压器或线路",
        )


def _quarters(wanted: Wanted, rates: Sequence[tuple[datetime, float, bool]]) -> list[Because]:
    return [
        Because(
            name="load rate of a quarter hour",
            value=rate,
            unit="1",
            kind=InputKind.FIGURE,
            id=wanted.place.id,
            start=at,
            question=_asked(Figure.LOAD_QUARTER, wanted, at),
        )
        for at, rate, _ in rates
    ]


def _active(circuit: CircuitId, energy: float | None, at: datetime, *, parts: bool) -> Because:
    figure = Figure.PARTS if parts else Figure.INTERVAL
    asked = {"figure": figure.value, "circuit": circuit, "start": stamp(at)}
    return Because(
        name="active energy",
        value=energy,
        unit="kWh",
        kind=InputKind.INTERVAL,
        id=circuit,
        start=at,
        question=None if energy is None else asked,
    )


def _reactive(circuit: CircuitId, energy: float | None, at: datetime) -> Because:
    asked = {"figure": Figure.REACTIVE.value, "circuit": circuit, "start": stamp(at)}
    return Because(
        name="reactive energy",
        value=energy,
        unit="kvarh",
        kind=InputKind.FIGURE,
        id=circuit,
        start=at,
        question=None if energy is None else asked,
    )


def _asked(figure: Figure, wanted: Wanted, at: datetime | None = None) -> Question:
    start, end = wanted.span
    rating = Rating.TRANSFORMER if wanted.rating is None else wanted.rating
    moment = None if at is None else stamp(at)
    return question(figure, wanted.place, start, end, rating=rating.value, line=wanted.line, at=moment)


def _band(rate: float) -> LoadBand:
    """Return how far a transformer or line is loaded (``electrical.load_rate``)."""
    light, normal, heavy = BANDS
    if rate > heavy:
        return LoadBand.OVERLOAD
    if rate > normal:
        return LoadBand.HEAVY
    return LoadBand.LIGHT if rate < light else LoadBand.NORMAL


def _limits(band: LoadBand) -> str:
    light, normal, heavy = BANDS
    return {
        LoadBand.LIGHT: f"below {light:g}",
        LoadBand.NORMAL: f"{light:g} to {normal:g}",
        LoadBand.HEAVY: f"above {normal:g}, to {heavy:g}",
        LoadBand.OVERLOAD: f"above {heavy:g}",
    }[band]


def _mean(rates: Sequence[float]) -> float:
    return math.fsum(rates) / len(rates)


def _marks(rates: Sequence[tuple[datetime, float, bool]]) -> list[str]:
    return _assumed(any(assumed for _, _, assumed in rates))


def _assumed(assumed: bool) -> list[str]:
    return [f"assumed_power_factor:{ASSUMED_PF:g}"] if assumed else []


def _known(found: Loading, rates: Sequence[tuple[datetime, float, bool]]) -> Quality:
    """Return which share of the span's quarter hours has a figure."""
    whole = (found.found.end - found.found.start) / QUARTER
    return Quality(
        interval_completeness=None,
        usable_share=len(rates) / whole,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=False,
    )
