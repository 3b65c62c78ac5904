"""Traces of virtual meters: quarter hours, the definition, and what its parts were."""

from datetime import UTC, datetime, timedelta

import numpy as np

from services.carbon.domain.booking import floor
from services.carbon.domain.intervals import STEP_S, Grade
from services.carbon.domain.why import Because, InputKind, Quality, Rule, Why
from services.carbon.tree import Node
from services.carbon.usecases.virtual import Part, VirtualMeters
from services.carbon.usecases.why.asked import Figure, Wanted, question, stamp, why


class VirtualWhys:
    """Traces of what virtual meters say."""

    def __init__(self, meters: VirtualMeters) -> None:
        self._meters = meters

    async def node(self, wanted: Wanted) -> Node:
        """Return a virtual meter as a node, for who asks to be checked against its sites."""
        return await self._meters.node(wanted.text("id"))

    async def virtual(self, wanted: Wanted) -> Why:
        """Return what a virtual meter says of a span as the sum of its quarter hours."""
        start, end = wanted.grid
        meter = wanted.text("id")
        found = await self._meters.read(meter, start, end)
        rows = found.intervals
        inputs = [
            Because(
                name="energy of a quarter hour",
                value=float(energy) if np.isfinite(energy) else None,
                unit="kWh",
                kind=InputKind.FIGURE,
                id=meter,
                start=datetime.fromtimestamp(float(at), UTC),
                grade=Grade(int(grade)).flag,
                question={
                    "figure": Figure.VIRTUAL_INTERVAL.value,
                    "id": meter,
                    "start": stamp(datetime.fromtimestamp(float(at), UTC)),
                },
            )
            for at, energy, grade in zip(rows.start, rows.energy_kwh, rows.grade, strict=True)
        ]
        total = found.total
        quality = Quality(
            interval_completeness=total.measured_share,
            usable_share=total.known_share,
            estimated_share=0.0,
            from_parts_share=0.0,
            provisional=False,
        )
        return why(wanted, value=total.energy_kwh, unit="kWh", rule=Rule.SUM, inputs=inputs, quality=quality)

    async def virtual_interval(self, wanted: Wanted) -> Why:
        """Return a quarter hour of a virtual meter by its definition; an unknown part may be left out if it says so."""
        at, meter = floor(wanted.span[0]), wanted.text("id")
        found = await self._meters.read(meter, at, at + timedelta(seconds=STEP_S))
        (energy,) = found.intervals.energy_kwh
        defined, parts = await self._meters.parts(meter, at)
        one = defined.meter
        counted = [part for part in parts if part.energy_kwh is not None or not one.allow_partial]
        constant = Because(
            name="constant",
            value=one.constant_kw * STEP_S / 3600.0,
            unit="kWh",
            kind=InputKind.PARAMETER,
            id=meter,
            version=defined.version,
            source=f"{one.constant_kw:g} kW of the definition",
        )
        inputs = [constant]
        for part in counted:
            inputs += _pair(part, at, meter, defined.version)
        value = float(energy) if np.isfinite(energy) else None
        marks = [f"left_out:{part.term.child}" for part in parts if part not in counted]
        return why(
            wanted, value=value, unit="kWh", rule=Rule.WEIGHTED, inputs=inputs, marks=marks, withheld=value is None
        )


def _pair(part: Part, at: datetime, meter: str, version: int) -> list[Because]:
    """Return the factor of a part and its energy."""
    child = part.term.child
    if part.is_virtual:
        asked = {"figure": Figure.VIRTUAL_INTERVAL.value, "id": child, "start": stamp(at)}
    else:
        asked = dict(question(Figure.INTERVAL)) | {"circuit": child, "start": stamp(at)}
    return [
        Because(name="factor", value=part.term.factor, unit="1", kind=InputKind.PARAMETER, id=meter, version=version),
        Because(
            name=child,
            value=part.energy_kwh,
            unit="kWh",
            kind=InputKind.FIGURE if part.is_virtual else InputKind.INTERVAL,
            id=child,
            start=at,
            question=None if part.energy_kwh is None else asked,
        ),
    ]
