"""Traces of carbon efficiency codes: K, L, what was emitted, and what was taken off it."""

from services.carbon.domain.levels.facts import FactKind
from services.carbon.domain.why import Because, InputKind, Number, Quality, Question, Rule, Why
from services.carbon.usecases.efficiency import Efficiency, NodeCode
from services.carbon.usecases.why.asked import Figure, Wanted, question, why
from services.carbon.usecases.why.media import assumed_of


class EfficiencyWhys:
    """Traces of what ``usecases/efficiency.py`` answers; each is of one civil period, ``id`` names the standard."""

    def __init__(self, efficiency: Efficiency) -> None:
        self._efficiency = efficiency

    async def efficiency(self, wanted: Wanted) -> Why:
        """Return a K as the intensity over the sector average or quota."""
        found = await self._code(wanted)
        code, row = found.code, found.code.yardstick.row
        return why(
            wanted,
            value=code.ratio,
            unit="1",
            rule=Rule.QUOTIENT,
            inputs=[
                self._figure(wanted, "L", code.intensity, code.kind.unit, Figure.EFFICIENCY_INTENSITY),
                Because(
                    name="benchmark",
                    value=None if row is None else row.benchmark,
                    unit=code.kind.unit,
                    kind=InputKind.PARAMETER,
                    id=found.standard_id,
                    version=None if row is None else row.version,
                    source="" if row is None else row.source,
                ),
            ],
            quality=_quality(found),
            marks=[*_said(found), *code.marks],
            withheld=code.ratio is None,
        )

    async def efficiency_intensity(self, wanted: Wanted) -> Why:
        """Return an L as the net emission over value added or area."""
        found = await self._code(wanted)
        code = found.code
        nodes = ", ".join(node.id for node in found.nodes)
        return why(
            wanted,
            value=code.intensity,
            unit=code.kind.unit,
            rule=Rule.BY_FACTOR,
            inputs=[
                Because(name="unit", value=code.kind.scale, unit="per kgCO2e", kind=InputKind.PARAMETER),
                Because(
                    name="D",
                    value=code.denominator.value,
                    unit="1e4 CNY" if code.kind.per is FactKind.VALUE_ADDED else "m2",
                    kind=InputKind.FACT,
                    id=f"{wanted.place.id}/{code.kind.per.value}",
                    source=f"{'; '.join(found.sources) or 'the registry'} ({nodes})",
                ),
                self._figure(wanted, "net", code.balance.net, "kgCO2e", Figure.EFFICIENCY_NET),
            ],
            quality=_quality(found),
            marks=[*_said(found), *code.marks],
            withheld=code.intensity is None,
        )

    async def efficiency_net(self, wanted: Wanted) -> Why:
        """Return what is left of an emission after zero-carbon electricity and sinks."""
        found = await self._code(wanted)
        balance = found.code.balance
        return why(
            wanted,
            value=balance.net,
            unit="kgCO2e",
            rule=Rule.EXCESS,
            inputs=[
                self._figure(wanted, "emitted", balance.gross, "kgCO2e", Figure.EFFICIENCY_GROSS),
                self._figure(wanted, "taken off", balance.deducted, "kgCO2e", Figure.EFFICIENCY_DEDUCTED),
            ],
            quality=_quality(found),
            marks=balance.marks,
        )

    async def efficiency_gross(self, wanted: Wanted) -> Why:
        """Return all that was emitted as the sum of electricity and every other medium."""
        found = await self._code(wanted)
        start, end = wanted.span
        balance = found.code.balance
        inputs = [
            _input("electricity", balance.electricity, question(Figure.EMISSION, wanted.place, start, end)),
            *(
                _input(
                    point,
                    value,
                    dict(question(Figure.MEDIUM_EMISSION, wanted.place, start, end, point=point)) | assumed_of(wanted),
                )
                for point, value in balance.media
            ),
        ]
        marks = [f"unsaid:{one.point}" for one in found.media if one.unsaid]
        return why(
            wanted, value=balance.gross, unit="kgCO2e", rule=Rule.WHOLE_SUM, inputs=inputs, quality=_quality(found),
            marks=marks,
        )  # fmt: skip

    async def efficiency_deducted(self, wanted: Wanted) -> Why:
        """Return what is taken off: electricity that is covered, and sinks."""
        balance = (await self._code(wanted)).code.balance
        asked = self._asked(wanted, Figure.EFFICIENCY_COVERED) if balance.covered_kwh and balance.covered else None
        return why(
            wanted,
            value=balance.deducted,
            unit="kgCO2e",
            rule=Rule.WHOLE_SUM,
            inputs=[
                _input("zero-carbon electricity", balance.covered, asked),
                Because(
                    name="sinks",
                    value=balance.sinks.amount,
                    unit="kgCO2e",
                    kind=InputKind.FACT,
                    id=f"{wanted.place.id}/{FactKind.SINK.value}",
                    source="; ".join(balance.sinks.sources) or "none entered",
                ),
            ],
            marks=balance.marks,
        )

    async def efficiency_covered(self, wanted: Wanted) -> Why:
        """Return what the covered electricity would have emitted, by the mean factor of the period itself."""
        start, end = wanted.span
        balance = (await self._code(wanted)).code.balance
        place = wanted.place
        return why(
            wanted,
            value=balance.covered if balance.covered_kwh else None,
            unit="kgCO2e",
            rule=Rule.BY_FACTOR,
            inputs=[
                Because(
                    name="covered, at most what was used",
                    value=balance.covered_kwh or None,
                    unit="kWh",
                    kind=InputKind.FACT,
                    id=f"{place.id}/{FactKind.ZERO_CARBON_ELECTRICITY.value}",
                    source="; ".join(balance.zero_carbon.sources) or "none entered",
                ),
                Because(
                    name="E",
                    value=balance.energy_kwh,
                    unit="kWh",
                    kind=InputKind.FIGURE,
                    id=place.id,
                    question=None if balance.energy_kwh is None else question(Figure.ENERGY, place, start, end),
                ),
                _input("electricity", balance.electricity, question(Figure.EMISSION, place, start, end)),
            ],
            marks=balance.marks,
        )

    async def _code(self, wanted: Wanted) -> NodeCode:
        start, end = wanted.span
        (found,) = await self._efficiency.codes(
            wanted.place, start, end, step=wanted.period, standard_id=wanted.text("id"), assumed=wanted.assumed
        )
        return found

    def _figure(self, wanted: Wanted, name: str, value: float | None, unit: str, figure: Figure) -> Because:
        asked = None if value is None else self._asked(wanted, figure)
        return Because(name=name, value=value, unit=unit, kind=InputKind.FIGURE, id=wanted.place.id, question=asked)

    def _asked(self, wanted: Wanted, figure: Figure) -> Question:
        start, end = wanted.span
        return dict(question(figure, wanted.place, start, end, id=wanted.id)) | assumed_of(wanted)


def _input(name: str, value: Number | None, asked: Question | None) -> Because:
    return Because(
        name=name, value=value, unit="kgCO2e", kind=InputKind.FIGURE, question=None if value is None else asked
    )


def _said(found: NodeCode) -> list[str]:
    """Return level, class and limits, or why there is none, as marks."""
    code = found.code
    marks = [f"levels_up_to:{';'.join(f'{limit:g}' for limit in code.yardstick.levels)}"]
    if code.carbon_class is not None:
        marks.append(f"{code.carbon_class.value}:{';'.join(f'{limit:g}' for limit in code.yardstick.classes)}")
    if code.level is not None:
        marks.append(f"level_{int(code.level)}")
    return marks if code.reason is None else [*marks, code.reason.value]


def _quality(found: NodeCode) -> Quality:
    return Quality(
        interval_completeness=found.interval_completeness,
        usable_share=found.usable_share,
        estimated_share=found.energy["estimated_share"],
        from_parts_share=found.energy["from_parts_share"],
        provisional=found.energy["provisional"],
    )
