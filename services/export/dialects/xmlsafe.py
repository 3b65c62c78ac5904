"""XML from outside: parsed without DTD, entities and network, within a size; read without fuss about case.

Centres differ in the case of element names, in prefixes and in whether a field is an attribute or a
child, so the readers here look at local names without case and take either. What is sent is strict.
"""

import codecs
import re
from collections.abc import Iterator

from lxml import etree

from libs.common.errors import InvalidInput

Element = etree._Element  # noqa: SLF001 - lxml exports its element type under this name only

MAX_BYTES = 4 << 20
"""Largest document that is parsed. A full device list of 1,000 devices has about 80 kB. [B]"""

_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>", re.IGNORECASE)
_FORBIDDEN_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class MalformedXml(InvalidInput):
    """The text is no XML that we take: not well formed, too large, or with a DTD."""

    code = "malformed_xml"
    title_zh = "XML 格式有误"


def parse_bytes(body: bytes, *, limit: int = MAX_BYTES) -> Element:
    """Return the root of a document in any encoding that it declares.

    Raises:
        MalformedXml: Not well formed, longer than ``limit`` bytes, or with a DTD or entities.
    """
    if len(body) > limit:
        raise MalformedXml(f"larger than {limit} bytes")
    try:
        root = etree.fromstring(body.removeprefix(codecs.BOM_UTF8).lstrip(), parser=_parser())
    except (etree.XMLSyntaxError, ValueError, LookupError) as exc:
        raise MalformedXml(f"not well formed: {str(exc)[:200]}") from exc
    return _without_dtd(root)


def parse_text(text: str, *, limit: int = MAX_BYTES) -> Element:
    """Return the root of a document that came as text; its declaration, whatever it says, is ignored.

    Raises:
        MalformedXml: As for ``parse_bytes``.
    """
    # Specification copies carry typographic quotes in the declaration; the text is decoded already.
    bare = _DECLARATION.sub("", text.lstrip("\ufeff \t\r\n"), count=1).lstrip("\ufeff \t\r\n")
    try:
        body = bare.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise MalformedXml("holds half a surrogate pair") from exc
    return parse_bytes(body, limit=limit)


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        recover=False,
    )


def _without_dtd(root: Element) -> Element:
    info = root.getroottree().docinfo
    if info.internalDTD is not None or info.doctype:
        raise MalformedXml("a DTD is not allowed")
    if next(root.iter(etree.Entity, etree.Comment, etree.ProcessingInstruction), None) is not None:
        raise MalformedXml("entities are not allowed")
    return root


def local(element: Element) -> str:
    """Return the element's name without namespace, as written."""
    return _without_namespace(element.tag)


def _without_namespace(name: object) -> str:
    return str(name).rpartition("}")[2]


def same(name: str, wanted: str) -> bool:
    """Return whether two names differ in case at most."""
    return name == wanted or name.casefold() == wanted.casefold()


def children(parent: Element, name: str) -> Iterator[Element]:
    """Yield the child elements of that name, in order."""
    return (child for child in parent if same(local(child), name))


def child(parent: Element | None, *names: str) -> Element | None:
    """Return the first child that has one of the names; names are tried in order."""
    if parent is None:
        return None
    for name in names:
        for each in parent:
            if same(local(each), name):
                return each
    return None


def text_of(element: Element | None) -> str | None:
    """Return the text of an element without surrounding blanks; None when there is no element."""
    if element is None:
        return None
    if not len(element):
        return (element.text or "").strip()
    return "".join(str(part) for part in element.itertext()).strip()


def field(element: Element | None, *names: str) -> str | None:
    """Return a field given as attribute or as child element; None when it is neither."""
    if element is None:
        return None
    for name in names:
        for key, value in element.items():
            if same(_without_namespace(key), name):
                return str(value).strip()
        found = child(element, name)
        if found is not None:
            return text_of(found)
    return None


def add(parent: Element, name: str, text: str | None = None, **attributes: str) -> Element:
    """Append a child element; characters that XML cannot carry are left out of its text."""
    element = etree.SubElement(parent, name, {key: clean(value) for key, value in attributes.items()})
    if text:
        element.text = clean(text)
    return element


def clean(text: str) -> str:
    """Return the text without the characters that XML 1.0 forbids."""
    # What can be printed has none of them, and most is: ids and numbers, of which a large answer has ten thousand.
    return text if text.isprintable() else _FORBIDDEN_TEXT.sub("", text)


def document(root: Element) -> str:
    """Return the document as text with its declaration."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + etree.tostring(root, encoding="unicode")
