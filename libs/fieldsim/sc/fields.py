"""Judges the plain fields of a message: are they there, in order, spelt, short enough, of their form?"""

from collections.abc import Iterator, Sequence

from lxml import etree

from libs.fieldsim.sc.catalogue import Evidence, Finding, Rule
from libs.fieldsim.sc.soap import child
from libs.fieldsim.sc.spec import Field, Spec

_SPELT_FREELY = frozenset({"fsuid", "fsucode", "vervion"})
"""Samples of the specification spell these in more than one way."""


def judged_fields(
    spec: Spec, parent: etree._Element, fields: Sequence[Field], evidence: Evidence | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with the children of an element.

    Args:
        spec: The dialect.
        parent: The element.
        fields: What belongs into it, in order; further elements are left alone, as later practice has them.
        evidence: How the message is known, when worse than the rules.
    """
    there = {field.name: child(parent, field.name) for field in fields}
    for known in (None, Evidence.RECONSTRUCTED):
        lacking = [f.name for f in fields if f.required and there[f.name] is None and f.evidence is known]
        if lacking:
            names = ", ".join(lacking)
            yield spec.found(Rule.MISSING_FIELD, f"{names} missing", f"缺少 {names}", evidence=known or evidence)
    for field in fields:
        element = there[field.name]
        if element is not None:
            yield from _judged_one(spec, field, element, field.evidence or evidence)
    order = [parent.index(element) for element in there.values() if element is not None]
    if order != sorted(order):
        expected = ", ".join(name for name, element in there.items() if element is not None)
        yield spec.found(
            Rule.FIELD_ORDER, f"not in the order {expected}", f"字段顺序应为 {expected}", evidence=evidence
        )


def _judged_one(spec: Spec, field: Field, element: etree._Element, evidence: Evidence | None) -> Iterator[Finding]:
    tag, text = str(element.tag), (element.text or "").strip()
    if tag != field.name and field.name.lower() not in _SPELT_FREELY:
        yield spec.found(
            Rule.FIELD_CASE, f"{tag} is spelt {field.name}", f"{tag} 应写作 {field.name}", evidence=evidence
        )
    if len(element):
        return
    length = len(text.encode())
    if field.max_bytes is not None and length > field.max_bytes:
        yield spec.found(
            Rule.FIELD_LENGTH,
            f"{field.name} has {length} bytes, at most {field.max_bytes}",
            f"{field.name} 有 {length} 字节，最多 {field.max_bytes} 字节",
            evidence=evidence,
        )
    fits = (field.values is None or text in field.values) and (field.form is None or field.form.fullmatch(text))
    if text and not fits:
        shown = "***" if field.name.lower() in spec.secrets else repr(text)
        wanted = " ".join(sorted(field.values)) if field.values else "its form"
        yield spec.found(
            Rule.FIELD_VALUE,
            f"{field.name} is {shown}, not {wanted}",
            f"{field.name} 取值 {shown} 不符合规定",
            evidence=evidence,
        )
