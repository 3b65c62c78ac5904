"""An auditor's walk through traces: every figure again by its rule, every input down to where nothing stands behind it.

The arithmetic is written down here once more, on purpose: it shares nothing with the service but the names of rules.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from services.carbon.domain.booking import Binding, Registers, series_of
from services.carbon.domain.intervals import align
from services.carbon.domain.registers import accumulate

Ask = Callable[..., Awaitable[Any]]
REGISTERS_KWH = 1e-9
"""Booked intervals that differ by less are the same (``domain/booking.py``)."""


@dataclass
class Walk:
    """Follows traces; ``ask`` is called with a path beneath the API and query parameters."""

    ask: Ask
    branches: int = 1
    """So many inputs of each document are followed: the first ones, and the last."""
    limit: int = 100
    """Inputs of a page."""
    seen: list[str] = field(default_factory=list)
    registers: int = 0
    """Intervals that were computed again out of registers."""

    async def figure(self, **question: Any) -> dict[str, Any]:
        """Return a figure's document with the inputs of all pages, after checking everything beneath it."""
        document = await self._all(question)
        self.seen.append(document["figure"])
        values = [number(one["value"]) for one in document["inputs"]]
        if document["rule"] == "registers":
            self._check_registers(document)
        elif document["rule"] != "stated":
            assert document["recomputed"] is True, document
            if document["value"] is not None:
                assert again(document["rule"], values) == number(document["value"]), document
        below = [one for one in document["inputs"] if one["trace"] is not None]
        for one in [*below[: self.branches], *below[self.branches :][-1:]]:
            found = await self.figure(**dict(parse_qsl(urlsplit(one["trace"]).query)))
            assert same(found["value"], one["value"]), (one, found["value"])
        return document

    async def _all(self, question: dict[str, Any]) -> dict[str, Any]:
        document = await self.ask("GET", "/energy/trace", **{**question, "limit": self.limit})
        inputs, following = list(document["inputs"]), document["next"]
        while following is not None:
            page = await self.ask("GET", "/energy/trace", **dict(parse_qsl(urlsplit(following).query)))
            assert len(page["inputs"]) <= self.limit
            assert page["value"] == document["value"]
            inputs += page["inputs"]
            following = page["next"]
        assert len(inputs) == document["inputs_total"]
        return {**document, "inputs": inputs}

    def _check_registers(self, document: dict[str, Any]) -> None:
        """Compute an interval again out of what its trace says of meters and registers, and of nothing else."""
        if not document["registers"]:
            return
        series = [
            one
            for row in document["bindings"]
            for one in series_of(
                Binding(
                    device_id=row["device_id"],
                    valid_from=datetime.fromisoformat(row["valid_from"]),
                    valid_to=None if row["valid_to"] is None else datetime.fromisoformat(row["valid_to"]),
                    initial_register=row["initial_register"],
                    final_register=row["final_register"],
                    modulus_kwh=row["modulus_kwh"],
                    point=row["point"],
                    resets=tuple(datetime.fromisoformat(at) for at in row["resets"]),
                ),
                Registers.of(
                    [
                        (datetime.fromisoformat(one["source_time"]), one["shown_kwh"], one["ratio"], one["uncertain"])
                        for one in document["registers"]
                        if one["device_id"] == row["device_id"]
                    ]
                ),
                document["rated_kw"],
            )
        ]
        start, end = (datetime.fromisoformat(document[name]).timestamp() for name in ("start", "end"))
        corrected = accumulate(series)
        (energy,) = align(corrected, first=start, last=end).energy_kwh
        gap = document["gap"]
        if document["value"] is None:
            assert np.isnan(energy)
        elif gap is not None:  # its total is measured, its shape was usual
            since, until = (datetime.fromisoformat(gap[name]).timestamp() for name in ("start", "end"))
            first, last = corrected.energy_kwh[np.searchsorted(corrected.at, [since, until])]
            assert abs(last - first - gap["energy_kwh"]) <= REGISTERS_KWH
            around = np.searchsorted(corrected.at, [start, end])
            most = np.ptp(corrected.energy_kwh[max(around[0] - 1, 0) : around[1] + 1])
            assert -REGISTERS_KWH <= document["value"] <= most + REGISTERS_KWH
        else:
            assert abs(energy - document["value"]) <= REGISTERS_KWH
        self.registers += 1


def number(value: Any) -> Any:
    """Return a value of a document: money is text."""
    return Decimal(value) if isinstance(value, str) else value


def same(one: Any, other: Any) -> bool:
    """Return whether a figure is what the document above said of it; one may say it as a decimal."""
    first, second = number(one), number(other)
    return first is second if first is None or second is None else float(first) == float(second)


def again(rule: str, values: Sequence[Any]) -> Any:
    """Return what a rule says."""
    known = [value for value in values if value is not None]
    if rule not in ("sum", "highest") and len(known) < len(values):
        return None
    with localcontext() as context:
        context.prec = 60
        match rule:
            case "sum" | "whole_sum" if known and all(isinstance(value, Decimal) for value in known):
                return sum(known, Decimal(0))
            case "sum" | "whole_sum":
                return math.fsum(known) if known else None
            case "cents":
                return (sum(known, Decimal(0)) + Decimal("0.005")).quantize(Decimal("0.01"), ROUND_FLOOR)
            case "product":
                result = known[0]
                for value in known[1:]:
                    result *= value
                return result
            case "weighted":
                whole = known[0]
                for factor, part in zip(known[1::2], known[2::2], strict=True):
                    whole += factor * part
                return whole
            case "deviation":
                whole = known[0] + known[1] + known[2]
                return (3.0 * max(known) - whole) / whole
            case "at_least_one":
                return max(1.0, known[0] / known[1])
            case "at_most_one":
                return min(1.0, known[0] / known[1])
            case "quotient_of_sums":
                return math.fsum(known[0::2]) / math.fsum(known[1::2])
            case "balance":
                return max(0.0, known[0] + known[1] + known[2] - known[3])
            case "difference":
                result = known[0]
                for value in known[1:]:
                    result -= value
                return result
            case "quotient":
                return known[0] / known[1]
            case "change":
                return (known[0] - known[1]) / abs(known[1])
            case "change_of_sums":
                value, base = math.fsum(known[0::2]), math.fsum(known[1::2])
                return (value - base) / abs(base)
            case "over_hypotenuse":
                return known[0] / math.hypot(known[0], known[1])
            case "excess":
                return max(0.0, known[0] - known[1])
            case "highest":
                return max(known, default=None)
            case "mean":
                return math.fsum(known) / len(known)
            case "median":
                ordered = sorted(known)
                return (ordered[(len(known) - 1) // 2] + ordered[len(known) // 2]) / 2
            case "apparent":
                active, reactive = math.fsum(known[1::2]), math.fsum(known[2::2])
                return known[0] * math.sqrt(active * active + reactive * reactive)
            case "by_factor":
                return known[0] * math.fsum(known[2:]) / known[1]
            case "contract_demand":
                declared, multiple, demand, tolerance, price = (Decimal(str(value)) for value in known)
                return price * (declared + multiple * max(demand - tolerance * declared, Decimal(0)))
            case "root_of_sum":
                return math.sqrt(math.fsum(known))
            case "half_width":
                z, count, *differences = known
                mean = math.fsum(differences) / len(differences)
                spread = math.fsum((one - mean) ** 2 for one in differences) / len(differences)
                return z * math.sqrt(count * spread) + abs(mean) * count
            case "band_cost":
                energy, floating, ratio, fixed = (Decimal(str(value)) for value in known)
                return energy * (floating * ratio + fixed)
    raise AssertionError(f"a rule that no auditor knows: {rule}")
