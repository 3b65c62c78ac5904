"""References of IEC 61850 and their names in MMS: ``LD0/MMXU1.TotW.mag.f`` [MX] is ``MMXU1$MX$TotW$mag$f`` of a domain.

Source:
    IEC 61850-8-1:2011 7.3.
"""

from dataclasses import dataclass

from hat.drivers import mms

VALUES = frozenset(
    {
        "mag", "instMag", "cVal", "instCVal", "stVal", "actVal", "frVal", "valWTr", "general", "hstVal", "setVal",
        "setMag",
    }
)  # fmt: skip
"""Attributes that are a value; quality and time stand beside them."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A named variable of an IED."""

    domain: str
    """IED and logical device."""
    item: str
    """Names joined by ``$``."""

    @property
    def specification(self) -> mms.NameVariableSpecification:
        """As MMS asks for it."""
        return mms.NameVariableSpecification(mms.DomainSpecificObjectName(self.domain, self.item))

    def child(self, name: str) -> "Variable":
        """Return a component of a structure."""
        return Variable(self.domain, f"{self.item}${name}")


def attribute(ied: str, reference: str, constraint: str) -> Variable:
    """Return the variable of an attribute."""
    device, _, path = reference.partition("/")
    node, *names = path.split(".")
    return Variable(f"{ied}{device}", "$".join([node, constraint, *names]))


def beside(value: Variable, name: str) -> Variable:
    """Return the quality (``q``) or time (``t``) that belongs to a value: of the innermost object that has one."""
    names = value.item.split("$")
    at = next((n for n, found in enumerate(names) if n > 1 and found in VALUES), len(names) - 1)
    return Variable(value.domain, "$".join([*names[:at], name]))


def report_block(ied: str, reference: str) -> Variable:
    """Return the variable of a report control block: ``LD0/LLN0.BR.brcb01`` is ``LLN0$BR$brcb01``."""
    device, _, path = reference.partition("/")
    return Variable(f"{ied}{device}", path.replace(".", "$"))


def controllable(ied: str, reference: str) -> Variable:
    """Return the variable under which an object is controlled."""
    return attribute(ied, reference, "CO")


def data_set(text: str) -> Variable | None:
    """Return the variable list that a report control block names, ``ied1LD0/LLN0$Meas``; None where it names none."""
    domain, slash, item = text.partition("/")
    return Variable(domain, item) if slash and item else None
