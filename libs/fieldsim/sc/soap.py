"""SOAP envelopes and B-interface payloads, built and read by hand.

The wire form is the one of the Tower WSDL (rpc/encoded, one operation ``invoke``, strings both ways). Documents with
a DTD are refused, entities are never resolved, and nothing is fetched.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lxml import etree

SC_NAMESPACE = "http://SCService.chinatowercom.com"
UNIT_NAMESPACE = "http://FSUService.chinatowercom.com"
ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
ENCODING = "http://schemas.xmlsoap.org/soap/encoding/"
CONTENT_TYPE = "text/xml; charset=utf-8"
MAX_BYTES = 4 << 20
"""A larger message is refused before it is parsed. [B]"""
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'

_SECRET = re.compile(r"(<(PaSCword|Password|IPSecPWD)>)[^<]+(</)", re.IGNORECASE)

_HEAD = (
    f'{DECLARATION}<soap:Envelope xmlns:soap="{ENVELOPE}"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
)


class BadMessage(Exception):
    """What came is not the message it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """A payload: what is asked or answered."""

    root: str
    """``Request`` or ``Response``."""
    name: str
    code: int | None
    """None: the sender wrote none, as dialect M does."""
    info: etree._Element
    """The ``Info`` element, without namespaces."""
    text: str = field(repr=False, default="")
    """The payload as it came."""

    def value(self, name: str) -> str | None:
        """Return the text of a child of ``Info``, whatever the case of its name; none when there is no such child."""
        found = child(self.info, name)
        return None if found is None else (found.text or "").strip()


def child(parent: etree._Element, name: str) -> etree._Element | None:
    """Return the first child of a name, whatever its case: units in the field write FsuId, FsuID and FSUID."""
    wanted = name.lower()
    return next((c for c in parent if isinstance(c.tag, str) and c.tag.lower() == wanted), None)


def parse_xml(content: bytes) -> etree._Element:
    """Return the root of a document.

    Raises:
        BadMessage: Too large, not well-formed, or with a DTD.
    """
    if len(content) > MAX_BYTES:
        raise BadMessage(f"{len(content)} bytes, at most {MAX_BYTES} are read")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError) as exc:
        raise BadMessage(f"not well-formed XML: {exc}") from exc
    if root.getroottree().docinfo.internalDTD is not None:
        raise BadMessage("a DTD is not allowed")
    return root


def unwrap(body: bytes, *, argument: str) -> tuple[str, str]:
    """Return the namespace of the call and the payload text: escaped text, CDATA or child elements.

    Args:
        body: The HTTP body.
        argument: ``xmlData`` of a request, ``invokeReturn`` of a reply.

    Raises:
        BadMessage: Not an envelope with that argument, or a SOAP fault.
    """
    root = parse_xml(body)
    if root.tag != f"{{{ENVELOPE}}}Envelope":
        raise BadMessage(f"the root is {root.tag}, not a SOAP 1.1 envelope")
    fault = root.find(f"{{{ENVELOPE}}}Body/{{{ENVELOPE}}}Fault")
    if fault is not None:
        raise BadMessage(f"SOAP fault: {fault.findtext('faultstring')}")
    holder = next((e for e in root.iter() if isinstance(e.tag, str) and _local(e) == argument), None)
    caller = None if holder is None else holder.getparent()
    if holder is None or caller is None:
        raise BadMessage(f"no {argument} in the envelope")
    namespace = etree.QName(caller).namespace or ""
    if len(holder):
        return namespace, etree.tostring(holder[0], encoding="unicode", with_tail=False)
    return namespace, (holder.text or "").lstrip("\ufeff \t\r\n")


def parse_payload(text: str) -> Message:
    """Return the message in a payload text.

    Raises:
        BadMessage: Not a Request or Response with PK_Type and Info.
    """
    if not text:
        raise BadMessage("the payload is empty")
    root = parse_xml(text.encode("utf-8"))
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = _local(element)
    if root.tag not in ("Request", "Response"):
        raise BadMessage(f"the payload's root is {root.tag}, not Request or Response")
    kind, info = root.find("PK_Type"), root.find("Info")
    if kind is None or info is None:
        raise BadMessage("PK_Type or Info is missing")
    name = kind.findtext("Name") if len(kind) else kind.text
    code = (kind.findtext("Code") or "").strip()
    return Message(
        root=root.tag,
        name=(name or "").strip(),
        code=int(code) if code.isdecimal() else None,
        info=info,
        text=text,
    )


def payload(root: str, name: str, code: int, children: Iterable[etree._Element]) -> str:
    """Return a payload text with its declaration."""
    document = etree.Element(root)
    kind = etree.SubElement(document, "PK_Type")
    etree.SubElement(kind, "Name").text = name
    etree.SubElement(kind, "Code").text = str(code)
    etree.SubElement(document, "Info").extend(list(children))
    return DECLARATION + etree.tostring(document, encoding="unicode")


def element(
    tag: str,
    content: str | Iterable[etree._Element] = "",
    attributes: Mapping[str, str] | None = None,
) -> etree._Element:
    """Return an element with a text or with children."""
    made = etree.Element(tag, dict(attributes or {}))
    if isinstance(content, str):
        made.text = content or None
    else:
        made.extend(list(content))
    return made


def masked(text: str) -> str:
    """Return a payload for people and files: without passwords."""
    return _SECRET.sub(r"\1***\3", text)


def request_envelope(namespace: str, text: str) -> bytes:
    """Return the envelope of a call of ``invoke``."""
    return _envelope(f'<ns1:invoke xmlns:ns1="{namespace}">', "xmlData", text, "</ns1:invoke>")


def reply_envelope(namespace: str, text: str) -> bytes:
    """Return the envelope of an answer of ``invoke``."""
    return _envelope(f'<ns1:invokeResponse xmlns:ns1="{namespace}">', "invokeReturn", text, "</ns1:invokeResponse>")


def fault_envelope(reason: str) -> bytes:
    """Return a SOAP 1.1 fault that blames the caller."""
    return (
        f"{_HEAD}<soap:Body><soap:Fault><faultcode>soap:Client</faultcode>"
        f"<faultstring>{_escaped(reason)}</faultstring></soap:Fault></soap:Body></soap:Envelope>"
    ).encode()


def _envelope(opening: str, argument: str, text: str, closing: str) -> bytes:
    return (
        f'{_HEAD}<soap:Body soap:encodingStyle="{ENCODING}">{opening}<{argument} xsi:type="xsd:string">'
        f"{_escaped(text)}</{argument}>{closing}</soap:Body></soap:Envelope>"
    ).encode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _local(element: etree._Element) -> str:
    return etree.QName(element).localname
