"""Messages that no unit may fall for, and forms of a right one that every unit should take."""

from collections.abc import Sequence
from dataclasses import dataclass

from libs.fieldsim.sc.catalogue import Evidence
from libs.fieldsim.sc.soap import DECLARATION, ENCODING, ENVELOPE

OVERSIZE_BYTES = 8 << 20
"""Larger than any message of the interface by two orders. [B]"""
DEEP = 20_000
_LEVELS = 9


@dataclass(frozen=True, slots=True)
class Form:
    """A right request in another form."""

    title: str
    title_zh: str
    body: bytes
    soap_action: str = '""'
    evidence: Evidence | None = None
    """How it is known that units have to take it; none: as the rule."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A body that has to be refused."""

    title: str
    title_zh: str
    body: bytes
    may_close: bool = False
    """Closing the connection is a refusal too."""
    evidence: Evidence | None = None
    """How it is known that taking it is wrong; none: SOAP 1.1 forbids it. Hanging or fetching is wrong in any case."""


def envelope(namespace: str, inner: str, *, prefix: str = "soap", doctype: str = "") -> bytes:
    """Return an envelope around whatever is to stand in ``xmlData``, as it stands."""
    return (
        f'{DECLARATION}{doctype}<{prefix}:Envelope xmlns:{prefix}="{ENVELOPE}"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
        f'<{prefix}:Body {prefix}:encodingStyle="{ENCODING}"><ns1:invoke xmlns:ns1="{namespace}">'
        f'<xmlData xsi:type="xsd:string">{inner}</xmlData></ns1:invoke></{prefix}:Body></{prefix}:Envelope>'
    ).encode()


def forms(namespace: str, payload: str) -> Sequence[Form]:
    """Return the forms of a request that were seen in the field or in samples."""
    bare = payload.removeprefix(DECLARATION)
    text = _escaped(payload)
    return (
        Form("escaped text", "转义文本", envelope(namespace, text)),
        Form("CDATA", "CDATA", envelope(namespace, f"<![CDATA[{payload}]]>")),
        Form("child elements", "子元素", envelope(namespace, bare)),
        # Prefixes mean nothing in XML with namespaces.
        Form("prefix SOAP-ENV", "前缀SOAP-ENV", envelope(namespace, text, prefix="SOAP-ENV"), evidence=Evidence.TEXT),
        Form("SOAPAction invoke", "SOAPAction为invoke", envelope(namespace, text), '"invoke"', Evidence.FIELD),
        Form("blanks and a byte-order mark before the declaration", "声明前有空白与BOM",
             envelope(namespace, "\ufeff\n " + text)),
        Form("no declaration", "无XML声明", envelope(namespace, _escaped(bare))),
    )  # fmt: skip


def attacks(namespace: str, payload: str, trap_url: str) -> Sequence[Attack]:
    """Return hostile bodies around a request that would be answered with Result 1 if it were harmless."""
    bare = payload.removeprefix(DECLARATION)
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "&#120;" * 10}">' for n in range(_LEVELS))
    outside = f'<!DOCTYPE Request [<!ENTITY x SYSTEM "{trap_url}">]>'
    with_entity = bare.replace("<Info>", "<Info><Note>&x;</Note>", 1)
    with_bomb = with_entity.replace("&x;", f"&e{_LEVELS - 1};")

    def inside(title: str, title_zh: str, doctype: str, document: str) -> Attack:
        # SOAP forbids a DTD in the envelope; of a document that travels as text it says nothing.
        body = envelope(namespace, _escaped(f"{DECLARATION}{doctype}{document}"))
        return Attack(title, title_zh, body, evidence=Evidence.RECONSTRUCTED)

    return (
        Attack("a DTD in the envelope", "信封含DTD",
               envelope(namespace, _escaped(payload), doctype="<!DOCTYPE Envelope>")),
        Attack("an entity bomb in the envelope", "信封含实体炸弹",
               envelope(namespace, with_bomb, doctype=f"<!DOCTYPE Envelope [{bomb}]>")),
        Attack("an external entity in the envelope", "信封含外部实体",
               envelope(namespace, with_entity, doctype=outside.replace("DOCTYPE Request", "DOCTYPE Envelope"))),
        inside("a DTD in the payload", "报文含DTD", '<!DOCTYPE Request [<!ENTITY x "y">]>', with_entity),
        inside("an entity bomb in the payload", "报文含实体炸弹", f"<!DOCTYPE Request [{bomb}]>", with_bomb),
        inside("an external entity in the payload", "报文含外部实体", outside, with_entity),
        inside("an external DTD in the payload", "报文引用外部DTD", f'<!DOCTYPE Request SYSTEM "{trap_url}">', bare),
        Attack("elements nested too deep", "嵌套过深", envelope(namespace, "<a>" * DEEP + "</a>" * DEEP),
               may_close=True),
        Attack("a message too large", "报文过大", envelope(namespace, _escaped(payload) + " " * OVERSIZE_BYTES),
               may_close=True, evidence=Evidence.RECONSTRUCTED),
        Attack("a message cut short", "报文不完整", envelope(namespace, _escaped(payload))[:-40]),
        Attack("an envelope without a call", "信封中没有调用",
               f'<s:Envelope xmlns:s="{ENVELOPE}"><s:Body>{bare}</s:Body></s:Envelope>'.encode()),
        Attack("no XML", "不是XML", b"\x00\xff<<<"),
    )  # fmt: skip


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
