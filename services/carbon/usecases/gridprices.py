"""What a kilowatt hour at a circuit costs at a time: by its account, the tariff's band and the sheet of the month."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from libs.common.clock import CIVIL_ZONE
from libs.common.db import ReadConn
from libs.common.ids import CircuitId, SiteId
from services.carbon.domain.accounts import Account, supplies
from services.carbon.domain.intervals import STEP_S
from services.carbon.domain.tariff.cost import EnergyPrice, PriceKey
from services.carbon.domain.tariff.grid import RateGrid, possible_grids
from services.carbon.domain.tariff.sheet import calendar_of
from services.carbon.store import bills as bills_store
from services.carbon.store import tariffs as tariffs_store
from services.carbon.usecases.tariffs import TariffBook, Tariffs

PriceAt = Callable[[CircuitId, datetime], float | None]
"""The price of a kilowatt hour in the quarter hour that begins at a time, None where it is unknown. [CNY/kWh]"""


class Circuits(Protocol):
    """What prices ask of the registry (``loads.py``)."""

    def site_of(self, circuit: CircuitId) -> SiteId | None:
        """Return the circuit's site."""

    def above(self, circuit: CircuitId) -> Sequence[CircuitId]:
        """Return the circuits that a circuit branches off from, nearest first."""


@dataclass(frozen=True)
class _Priced:
    """One account's rates and prices of some civil days."""

    first: date
    last: date
    circuits: tuple[str, ...]
    account: Account
    grids: Sequence[RateGrid]
    """All that may turn out to be true; a price that differs between them is unknown."""


@dataclass(frozen=True, slots=True)
class GridPrices:
    """Prices as they hold now: tariffs that are trusted, and sheets that somebody has entered."""

    tariffs: Tariffs
    circuits: Circuits

    async def pricer(self, conn: ReadConn, circuits: Sequence[CircuitId], first: date, last: date) -> PriceAt:
        """Return what gives the price at some circuits on the civil days ``[first, last)``."""
        sites: dict[SiteId, list[CircuitId]] = {}
        for circuit in circuits:
            site = self.circuits.site_of(circuit)
            if site is not None:
                sites.setdefault(site, []).append(circuit)
        accounts = await bills_store.fetch_accounts(conn, sites=sorted(sites))
        if not accounts:
            return lambda circuit, at: None
        book = await self.tariffs.book(conn)
        sheets = await tariffs_store.fetch_prices(conn, first=first.replace(day=1), last=last)
        prices = {one.energy.key: one.energy for one in sheets}
        parts: list[_Priced] = []
        for site, mine in sites.items():
            above: dict[str, Sequence[str]] = {circuit: self.circuits.above(circuit) for circuit in mine}
            states = [one for one in accounts if one.site_id == site]
            parts += [
                _priced(part.account, part.circuits, book, part.first, part.last)
                for part in supplies(states, above, first=first, last=last)
                if part.account is not None
            ]
        return lambda circuit, at: _price(parts, prices, circuit, at)


def _priced(account: Account, circuits: tuple[str, ...], book: TariffBook, first: date, last: date) -> _Priced:
    tariff = book.tariffs.get((account.region, account.customer_class))
    grids: Sequence[RateGrid] = ()
    if tariff is not None:
        days = calendar_of(book.special_days, account.region)
        grids = possible_grids(tariff, first=first, last=last, calendar=days)
    return _Priced(first, last, circuits, account, grids)


def _price(
    parts: Sequence[_Priced], prices: dict[PriceKey, EnergyPrice], circuit: CircuitId, at: datetime
) -> float | None:
    day = at.astimezone(CIVIL_ZONE).date()
    for part in parts:
        if part.first <= day < part.last and circuit in part.circuits:
            account = part.account
            month = PriceKey(account.region, account.customer_class, account.voltage, day.replace(day=1))
            sheet = prices.get(month)
            found = {None if sheet is None else _in_grid(grid, sheet, at) for grid in part.grids}
            return found.pop() if len(found) == 1 else None
    return None


def _in_grid(grid: RateGrid, sheet: EnergyPrice, at: datetime) -> float | None:
    """Return the mean price of the slots of one quarter hour, None where one of them has no rate that is trusted."""
    count = int(STEP_S) // grid.slot_s
    begin = (int(at.timestamp()) - grid.first_s) // grid.slot_s
    codes: NDArray[np.int16] = grid.code[begin : begin + count]
    rates = [grid.rates[code] for code in codes if code >= 0]
    if len(rates) < count or not all(rate.trusted for rate in rates):
        return None
    return float(sum((sheet.of(rate.ratio) for rate in rates), Decimal(0)) / count)
