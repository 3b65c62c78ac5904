"""Prices that two parties have agreed on for saved energy, by clock time.

They are not the supplier's tariff: a contract names its own prices, and they hold for its whole term.
"""

import math
from dataclasses import dataclass
from datetime import time

import numpy as np

from libs.common.errors import InvalidInput
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.registers import FloatArray
from services.carbon.domain.savings.measurement.days import SLOTS

PRICE_MAX_CNY_PER_KWH = 10.0
"""Beyond it somebody has entered fen, or CNY per MWh. [CNY/kWh]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBand:
    """A price and the clock times at which it holds."""

    band: str
    """``sharp``, ``peak``, ``flat``, ``valley``, or what the contract calls it."""
    price_cny_per_kwh: float
    hours: tuple[tuple[time, time | None], ...]
    """Half-open, on quarter hours; no end is midnight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreedPrices:
    """Prices of a day; every quarter hour has one."""

    prices_id: str
    version: int
    source: str
    """Which contract, which clause."""
    bands: tuple[PriceBand, ...]

    def __post_init__(self) -> None:
        """Refuse prices that leave a quarter hour without one or give it two.

        Raises:
            InvalidInput: They do, a time is not on a quarter hour, or a price is none per kilowatt hour.
        """
        self.slot_bands()
        for one in self.bands:
            if not 0 <= one.price_cny_per_kwh <= PRICE_MAX_CNY_PER_KWH:
                raise InvalidInput(
                    f"prices: {one.band}: expected 0 to {PRICE_MAX_CNY_PER_KWH:g} CNY/kWh, found "
                    f"{one.price_cny_per_kwh:g}; is it in fen, or per MWh?",
                    message_zh=f"价格 {one.band}:应为 0 至 {PRICE_MAX_CNY_PER_KWH:g} 元/千瓦时,"
                    f"实际为 {one.price_cny_per_kwh:g};单位是否为分,或按兆瓦时计?",
                )

    def slot_bands(self) -> list[int]:
        """Return the index of the band of each quarter hour of a day.

        Raises:
            InvalidInput: A quarter hour has none or two.
        """
        found: list[int | None] = [None] * SLOTS
        for index, band in enumerate(self.bands):
            for start, end in band.hours:
                for slot in range(_slot(start), SLOTS if end is None else _slot(end)):
                    if found[slot] is not None:
                        raise _wrong(slot, "one band", "两个")
                    found[slot] = index
        for slot, each in enumerate(found):
            if each is None:
                raise _wrong(slot, "a band", "没有")
        return [each for each in found if each is not None]

    def split(self, saving: FloatArray) -> list[tuple[PriceBand, float]]:
        """Return the saved energy of each band.

        Args:
            saving: By day and quarter hour, NaN where it is unknown. Shape (n, 96). [kWh]
        """
        by_slot = np.nansum(saving, axis=0)
        bands = np.array(self.slot_bands())
        return [
            (band, math.fsum(float(one) for one in by_slot[bands == index])) for index, band in enumerate(self.bands)
        ]

    def money_cny(self, saving: FloatArray) -> float:
        """Return what saved energy is worth; arguments as for ``split``. [CNY]"""
        return math.fsum(energy * band.price_cny_per_kwh for band, energy in self.split(saving))


def _slot(at: time) -> int:
    minute = at.hour * 60 + at.minute
    if at.second or at.microsecond or minute % int(STEP_S // 60):
        raise InvalidInput(
            f"prices: expected times on quarter hours, found {at.isoformat()}",
            message_zh=f"价格时段应以 15 分钟为单位,实际为 {at.isoformat()}",
        )
    return minute // int(STEP_S // 60)


def _wrong(slot: int, expected: str, found_zh: str) -> InvalidInput:
    clock = f"{slot // 4:02}:{slot % 4 * 15:02}"
    return InvalidInput(
        f"prices: expected {expected} for each quarter hour of the day, wrong at {clock}",
        message_zh=f"价格时段应覆盖全天且不重叠,{clock} {found_zh}对应的时段",
    )
