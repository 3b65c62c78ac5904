"""Traces of targets: what is used, how the period will end, and what follows from both."""

from collections.abc import Callable
from datetime import date, timedelta

from libs.common.tokens import Principal
from services.carbon.domain.targets import INTERVAL_Z, Forecast
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why
from services.carbon.tree import Node
from services.carbon.usecases.costs import midnight
from services.carbon.usecases.figures import DayFigure, Measure
from services.carbon.usecases.targets import YEAR, Targets, TargetStanding
from services.carbon.usecases.why.asked import Figure, Wanted, question, why


class TargetWhys:
    """Traces of how targets stand at a day; each is of the target ``id``."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    async def target(self, who: Principal, wanted: Wanted) -> Why:
        """Return what of a target is used for certain as the sum of its days."""
        found = await self._standing(who, wanted)
        return self._used(wanted, found, found.at_least, lambda day: day.at_least)

    async def target_measured(self, who: Principal, wanted: Wanted) -> Why:
        """Return what is used on the days of which enough is known."""
        found = await self._standing(who, wanted)
        return self._used(wanted, found, found.standing.measured, lambda day: day.value)

    async def forecast(self, who: Principal, wanted: Wanted) -> Why:
        """Return how the period will end as the sum of its days: measured ones, and what is expected of the others."""
        found = await self._standing(who, wanted)
        place, measure = found.stored.place, Measure(found.stored.target.measure)
        expected = found.standing.forecast
        inputs = []
        for offset, amount in enumerate(() if expected is None else expected.by_day):
            on = found.stored.target.start + timedelta(days=offset)
            is_known = offset < len(found.days) and found.days[offset].value is not None
            naive = expected is not None and expected.method == "seasonal_naive"
            asked = on if is_known else on - YEAR if naive else None
            inputs.append(
                Because(
                    name=on.isoformat(),
                    value=amount,
                    unit=measure.unit,
                    kind=InputKind.FIGURE,
                    id=place.id,
                    start=midnight(on),
                    grade=None if is_known else "expected",
                    source="" if is_known else f"as on {asked}" if asked is not None else "mean of the days so far",
                    question=None if asked is None else _of_day(measure, place, asked),
                )
            )
        return why(
            wanted,
            value=None if expected is None else expected.value,
            unit=measure.unit,
            rule=Rule.WHOLE_SUM,
            inputs=inputs,
            quality=_quality(found),
            marks=[] if expected is None else [expected.method],
        )

    async def forecast_half(self, who: Principal, wanted: Wanted) -> Why:
        """Return half the width of the forecast's interval by the differences of the days so far to last year's."""
        found = await self._standing(who, wanted)
        expected, unit = found.standing.forecast, Measure(found.stored.target.measure).unit
        half = _half(expected)
        parameters = [
            Because(
                name="z", value=INTERVAL_Z, unit="1", kind=InputKind.PARAMETER,
                source="half-width of 80 % of a normal distribution",
            ),
            Because(
                name="n", value=None if expected is None else float(expected.ahead), unit="1",
                kind=InputKind.PARAMETER, source="days that are expected, not measured",
            ),
        ]  # fmt: skip
        differences = [
            Because(
                name="a day so far less last year's",
                value=value,
                unit=unit,
                kind=InputKind.PARAMETER,
                id=found.stored.place.id,
                source="days of the forecast and those of 52 weeks before",
            )
            for value in (() if half is None or expected is None else expected.differences)
        ]
        every = [*parameters, *differences]
        if expected is not None and expected.ahead == 0:
            every = [Because(name="no day is ahead", value=0.0, unit=unit, kind=InputKind.PARAMETER)]
            return why(wanted, value=half, unit=unit, rule=Rule.SUM, inputs=every)
        return why(wanted, value=half, unit=unit, rule=Rule.HALF_WIDTH, inputs=every, withheld=half is None)

    async def forecast_low(self, who: Principal, wanted: Wanted) -> Why:
        """Return the lower end of the forecast's interval."""
        found = await self._standing(who, wanted)
        return self._end(wanted, found, Rule.DIFFERENCE, lambda one: one.low)

    async def forecast_high(self, who: Principal, wanted: Wanted) -> Why:
        """Return the upper end of the forecast's interval."""
        found = await self._standing(who, wanted)
        return self._end(wanted, found, Rule.WHOLE_SUM, lambda one: one.high)

    async def target_gap(self, who: Principal, wanted: Wanted) -> Why:
        """Return what will be left of a target: what is allowed less the forecast."""
        found = await self._standing(who, wanted)
        expected = found.standing.forecast
        inputs = [
            self._allowed(found),
            self._figure(wanted, found, "forecast", Figure.FORECAST, None if expected is None else expected.value),
        ]
        unit = Measure(found.stored.target.measure).unit
        return why(wanted, value=found.standing.gap, unit=unit, rule=Rule.DIFFERENCE, inputs=inputs)

    async def target_pace(self, who: Principal, wanted: Wanted) -> Why:
        """Return what is measured over what is expected by now."""
        found = await self._standing(who, wanted)
        one = found.standing
        unit = Measure(found.stored.target.measure).unit
        inputs = [
            self._figure(wanted, found, "measured", Figure.TARGET_MEASURED, one.measured),
            Because(
                name="due",
                value=one.allowed * one.expected_share,
                unit=unit,
                kind=InputKind.PARAMETER,
                id=one.target.target_id,
                source=f"{one.allowed:g} {unit} allowed, times {one.expected_share:g} by the profile of {one.profile}",
            ),
        ]
        return why(
            wanted, value=one.pace, unit="1", rule=Rule.QUOTIENT, inputs=inputs, quality=_quality(found),
            withheld=one.pace is None,
        )  # fmt: skip

    async def _standing(self, who: Principal, wanted: Wanted) -> TargetStanding:
        return await self._targets.standing(who, wanted.text("id"), as_of=wanted.as_of)

    def _used(
        self, wanted: Wanted, found: TargetStanding, value: float | None, of: Callable[[DayFigure], float | None]
    ) -> Why:
        target, place = found.stored.target, found.stored.place
        measure = Measure(target.measure)
        inputs = []
        for offset, day in enumerate(found.days):
            on = target.start + timedelta(days=offset)
            inputs.append(
                Because(
                    name=on.isoformat(),
                    value=of(day),
                    unit=measure.unit,
                    kind=InputKind.FIGURE,
                    id=place.id,
                    start=midnight(on),
                    grade=None if day.value is not None else "incomplete",
                    question=None if of(day) is None else _of_day(measure, place, on),
                )
            )
        quality = _quality(found)
        return why(wanted, value=value, unit=measure.unit, rule=Rule.SUM, inputs=inputs, quality=quality)

    def _end(self, wanted: Wanted, found: TargetStanding, rule: Rule, of: Callable[[Forecast], float | None]) -> Why:
        expected = found.standing.forecast
        value = None if expected is None else of(expected)
        inputs = [
            self._figure(wanted, found, "forecast", Figure.FORECAST, None if expected is None else expected.value),
            self._figure(wanted, found, "half-width", Figure.FORECAST_HALF, _half(expected)),
        ]
        unit = Measure(found.stored.target.measure).unit
        return why(wanted, value=value, unit=unit, rule=rule, inputs=inputs, withheld=value is None)

    def _allowed(self, found: TargetStanding) -> Because:
        target = found.stored.target
        changes = ", ".join(f"{one.amount:+g} on {one.on} by {one.author}" for one in target.adjustments)
        return Because(
            name="allowed",
            value=found.standing.allowed,
            unit=Measure(target.measure).unit,
            kind=InputKind.FACT,
            id=target.target_id,
            source=changes,
        )

    def _figure(self, wanted: Wanted, found: TargetStanding, name: str, figure: Figure, value: float | None) -> Because:
        on = None if wanted.as_of is None else wanted.as_of.isoformat()
        return Because(
            name=name,
            value=value,
            unit=Measure(found.stored.target.measure).unit,
            kind=InputKind.FIGURE,
            id=found.stored.target.target_id,
            question=None if value is None else question(figure, id=wanted.id, as_of=on),
        )


def _half(expected: Forecast | None) -> float | None:
    """Return half the width of a forecast's interval, None where there is too little history to say."""
    return None if expected is None else expected.half


def _quality(found: TargetStanding) -> Quality:
    return Quality(
        interval_completeness=None,
        usable_share=found.interval_completeness,
        estimated_share=0.0,
        from_parts_share=0.0,
        provisional=found.standing.as_of < found.stored.target.end,
    )


def _of_day(measure: Measure, place: Node, on: date) -> dict[str, str]:
    figure = {Measure.ENERGY: Figure.ENERGY, Measure.EMISSION: Figure.EMISSION, Measure.COST: Figure.COST}[measure]
    step = "day" if measure is Measure.COST else None
    return dict(question(figure, place, midnight(on), midnight(on + timedelta(days=1)), step=step))
