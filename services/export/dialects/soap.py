"""SOAP 1.1 envelopes, written by hand for exactly one operation: ``invoke(xmlData) -> invokeReturn``.

What we send is the form that real units and centres were seen to take: prefix ``soap:``, rpc/encoded,
the payload as escaped text, no SOAPAction. What we take is read by namespace and never by prefix:
escaped text, CDATA or nested elements.
"""

import re
from html import escape
from importlib.resources import files

from lxml import etree

from libs.common.errors import InvalidInput
from services.export.dialects import xmlsafe as xml
from services.export.dialects.base import Service

ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
ENCODING = "http://schemas.xmlsoap.org/soap/encoding/"
CONTENT_TYPE = "text/xml; charset=utf-8"

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    f'<soap:Envelope xmlns:soap="{ENVELOPE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
)
_TAIL = "</soap:Envelope>"
_PLACE = re.compile(r"\{([a-z_]+)\}")


class NotSoap(InvalidInput):
    """A body that is no SOAP 1.1 envelope around our one operation."""

    code = "not_soap"
    title_zh = "不是有效的SOAP报文"


class SoapFault(InvalidInput):
    """The other side answered with a fault."""

    code = "soap_fault"
    title_zh = "对端返回SOAP故障"


def write_request(payload: str, service: Service) -> bytes:
    """Return the envelope of a call to ``service``."""
    return _call("invoke", "xmlData", payload, service)


def write_response(payload: str, service: Service) -> bytes:
    """Return the envelope of an answer by ``service``."""
    return _call("invokeResponse", "invokeReturn", payload, service)


def write_fault(side: str, text: str) -> bytes:
    """Return a fault; ``side`` is ``Client`` or ``Server``."""
    fault = f"<faultcode>soap:{side}</faultcode><faultstring>{escape(xml.clean(text))}</faultstring>"
    return f"{_HEAD}<soap:Body><soap:Fault>{fault}</soap:Fault></soap:Body>{_TAIL}".encode()


def _call(operation: str, parameter: str, payload: str, service: Service) -> bytes:
    text = escape(xml.clean(payload), quote=False)
    style, kind = (f' soap:encodingStyle="{ENCODING}"', ' xsi:type="xsd:string"') if service.encoded else ("", "")
    return (
        f'{_HEAD}<soap:Body{style}><ns1:{operation} xmlns:ns1="{escape(service.namespace)}">'
        f"<{parameter}{kind}>{text}</{parameter}></ns1:{operation}></soap:Body>{_TAIL}"
    ).encode()


def read_request(body: bytes, *, limit: int = xml.MAX_BYTES) -> xml.Element:
    """Return the root of the payload of a call.

    Raises:
        MalformedXml: The envelope or the payload is no XML that we take.
        NotSoap: There is no ``invoke`` with ``xmlData`` in it.
    """
    parameter = xml.child(_operation(body, "invoke", limit), "xmlData")
    if parameter is None:
        raise NotSoap("expected invoke/xmlData in the Body")
    nested = next(iter(parameter), None)
    return nested if nested is not None else xml.parse_text(_text(parameter), limit=limit)


def read_response(body: bytes, *, limit: int = xml.MAX_BYTES) -> str:
    """Return the payload of an answer as text; empty when the other side answered nothing.

    Raises:
        MalformedXml, NotSoap: It is no answer.
        SoapFault: It is a fault.
    """
    parameter = xml.child(_operation(body, "invokeResponse", limit), "invokeReturn")
    if parameter is None:
        raise NotSoap("expected invokeResponse/invokeReturn in the Body")
    nested = next(iter(parameter), None)
    return _text(parameter) if nested is None else etree.tostring(nested, encoding="unicode")


def _operation(body: bytes, name: str, limit: int) -> xml.Element:
    root = xml.parse_bytes(body, limit=limit)
    if root.tag != f"{{{ENVELOPE}}}Envelope":
        raise NotSoap(f"expected a SOAP 1.1 Envelope, found {root.tag}"[:200])
    content = root.find(f"{{{ENVELOPE}}}Body")
    if content is None:
        raise NotSoap("the Envelope has no Body")
    fault = content.find(f"{{{ENVELOPE}}}Fault")
    if fault is not None:
        raise SoapFault(f"fault: {xml.field(fault, 'faultcode')}: {xml.field(fault, 'faultstring')}"[:300])
    operation = xml.child(content, name)
    if operation is None:
        raise NotSoap(f"expected {name} in the Body")
    return operation


def _text(element: xml.Element) -> str:
    return "".join(str(part) for part in element.itertext()).lstrip("\ufeff")


def wsdl(service: Service, address: str) -> bytes:
    """Return the WSDL of a service, with its names and the address in it.

    Args:
        service: How it is named.
        address: What ``soap:address`` says: where the request for the WSDL came to.
    """
    encoded = f'encodingStyle="{ENCODING}" ' if service.encoded else ""
    body = f'{encoded}namespace="{escape(service.namespace)}" use="{"encoded" if service.encoded else "literal"}"'
    names = {
        "namespace": escape(service.namespace),
        "string": "soapenc:string" if service.encoded else "xsd:string",
        "body": body,
        "service": escape(service.name),
        "port": escape(service.port),
        "port_type": escape(service.port_type),
        "binding": escape(service.binding),
        "address": escape(address),
    }
    template = files("services.export.dialects").joinpath("wsdl", "unit.wsdl").read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: names[place.group(1)], template).encode()
