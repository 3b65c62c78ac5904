"""Why a figure is what it is: one way to ask, for every figure that carbon answers (``domain/why.py``)."""

from services.carbon.usecases.why.asked import Figure, Flow, Method, Wanted, question, trace_link
from services.carbon.usecases.why.energy import EnergyWhys
from services.carbon.usecases.why.money import MoneyWhys
from services.carbon.usecases.why.ratios import RatioWhys
from services.carbon.usecases.why.savings import ProjectWhys, SavingWhys, StatementWhys
from services.carbon.usecases.why.statements import InventoryWhys
from services.carbon.usecases.why.virtual import VirtualWhys

__all__ = [
    "EnergyWhys", "Figure", "Flow", "InventoryWhys", "Method", "MoneyWhys", "ProjectWhys", "RatioWhys", "SavingWhys",
    "StatementWhys", "VirtualWhys", "Wanted", "question", "trace_link",
]  # fmt: skip
