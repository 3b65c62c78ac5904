"""Why a figure is what it is: one way to ask, for every figure that carbon answers (``domain/why.py``)."""

from services.carbon.usecases.why.asked import Figure, Method, Wanted
from services.carbon.usecases.why.energy import EnergyWhys
from services.carbon.usecases.why.money import MoneyWhys
from services.carbon.usecases.why.ratios import RatioWhys
from services.carbon.usecases.why.statements import InventoryWhys, SavingWhys

__all__ = ["EnergyWhys", "Figure", "InventoryWhys", "Method", "MoneyWhys", "RatioWhys", "SavingWhys", "Wanted"]
