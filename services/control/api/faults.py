"""Faults in switching as they are shown: with code, text and advice in both languages."""

from services.control.api.common import View
from services.control.domain.faults import Fault
from services.control.faultcodes import fault_codes


class FaultView(View):
    """What is the matter with a load, and what to do about it."""

    code: str
    """``S01``, ``S02`` …; a code never changes its meaning."""
    fault: str
    name: str
    name_zh: str
    text: str
    text_zh: str
    advice: str
    advice_zh: str


def fault_view(fault: Fault) -> FaultView:
    """Return a fault with its code, text and advice."""
    known = fault_codes()[fault]
    return FaultView(
        code=known.code, fault=fault.value, name=known.name_en, name_zh=known.name_zh, text=known.text_en,
        text_zh=known.text_zh, advice=known.advice_en, advice_zh=known.advice_zh,
    )  # fmt: skip
