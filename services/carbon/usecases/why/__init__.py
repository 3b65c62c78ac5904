"""Why a figure is what it is: one way to ask, for every figure that carbon answers (``domain/why.py``)."""

from services.carbon.usecases.why.asked import Figure, Flow, LoadBand, Method, Wanted, question, trace_link
from services.carbon.usecases.why.efficiency import EfficiencyWhys
from services.carbon.usecases.why.energy import EnergyWhys
from services.carbon.usecases.why.fees import FeeWhys
from services.carbon.usecases.why.footprints import FootprintWhys
from services.carbon.usecases.why.loads import LoadWhys
from services.carbon.usecases.why.media import MediaWhys
from services.carbon.usecases.why.mediabills import MediumBillWhys
from services.carbon.usecases.why.money import MoneyWhys
from services.carbon.usecases.why.ratios import RatioWhys
from services.carbon.usecases.why.savings import ProjectWhys, SavingWhys, StatementWhys
from services.carbon.usecases.why.statements import InventoryWhys
from services.carbon.usecases.why.targets import TargetWhys
from services.carbon.usecases.why.virtual import VirtualWhys

__all__ = [
    "EfficiencyWhys", "EnergyWhys", "FeeWhys", "Figure", "Flow", "FootprintWhys", "InventoryWhys", "LoadBand",
    "LoadWhys", "MediaWhys", "MediumBillWhys", "Method", "MoneyWhys", "ProjectWhys", "RatioWhys", "SavingWhys",
    "StatementWhys", "TargetWhys", "VirtualWhys", "Wanted", "question", "trace_link",
]  # fmt: skip
