"""The shape of a body as data: which element or attribute holds which neutral fact, in which order.

One shape is used both ways. What is written follows it to the letter; what is read looks at local names
without case, takes a field as attribute or as child, and does not mind whether a list stands in a
``Value`` or ``Values`` of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lxml import etree

from services.export.dialects import xmlsafe as xml

Facts = Mapping[str, Any]
"""Name of a neutral fact to its text, None where there is none; name of a list to its items' facts."""

TEXT = "."
"""Name of the part that is an element's own text."""
_WRAPPERS = ("Value", "Values")


@dataclass(frozen=True, slots=True)
class Part:
    """One element or attribute of a body."""

    name: str
    """As it is written; ``.`` is the text of the element around it."""
    spellings: tuple[str, ...] = ()
    """Other names that are read."""
    attribute: bool = False
    optional: bool = False
    """Left out when there is no value, instead of being empty."""
    fact: str | None = None
    text: str = ""
    """What always stands there, where no fact does."""
    each: str | None = None
    """List whose items repeat this element."""
    parts: tuple["Part", ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is read."""
        return (self.name, *self.spellings)


def write(parts: Sequence[Part], facts: Facts, parent: xml.Element) -> None:
    """Append the parts to an element; an item's facts stand before those around it."""
    for part in parts:
        if part.each is not None:
            for item in facts[part.each]:
                write(part.parts, {**facts, **item}, etree.SubElement(parent, part.name))
            continue
        if part.parts:
            write(part.parts, facts, etree.SubElement(parent, part.name))
            continue
        text = part.text if part.fact is None else facts[part.fact]
        if text is None and part.optional:
            continue
        if part.attribute:
            parent.set(part.name, xml.clean(text or ""))
        elif part.name == TEXT:
            parent.text = xml.clean(text) if text else None
        else:
            xml.add(parent, part.name, text)


def read(parts: Sequence[Part], element: xml.Element) -> dict[str, Any]:
    """Return the facts of an element; a missing list is empty, a missing value None."""
    facts: dict[str, Any] = {}
    for part in parts:
        if part.each is not None:
            found = (each for name in part.names for each in xml.children(element, name))
            facts[part.each] = [read(part.parts, each) for each in found]
        elif part.parts:
            facts.update(read(part.parts, _container(part, element)))
        elif part.fact is None:
            continue
        elif part.name == TEXT:
            facts[part.fact] = xml.text_of(element)
        elif part.attribute and any(xml.same(part.name, other.name) for other in parts if not other.attribute):
            # The children of that name are something else: a device's Id beside its points' Ids.
            facts[part.fact] = _attribute(element, part.names)
        else:
            facts[part.fact] = xml.field(element, *part.names)
    return facts


def facts_in(parts: Sequence[Part]) -> Iterator[str]:
    """Yield every fact and list that a shape names, wherever it stands."""
    for part in parts:
        for name in (part.fact, part.each):
            if name is not None:
                yield name
        yield from facts_in(part.parts)


def _attribute(element: xml.Element, names: Sequence[str]) -> str | None:
    for key, value in element.attrib.items():
        if any(xml.same(etree.QName(str(key)).localname, name) for name in names):
            return str(value).strip()
    return None


def _container(part: Part, element: xml.Element) -> xml.Element:
    found = xml.child(element, *part.names)
    if found is None:
        if any(xml.same(part.name, name) for name in _WRAPPERS):
            other = xml.child(element, *_WRAPPERS)
            return element if other is None else other
        found = xml.child(xml.child(element, *_WRAPPERS), *part.names)
    return etree.Element(part.name) if found is None else found
