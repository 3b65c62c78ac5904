"""The WSDL of the centre's service, element names as in dialect T, in our own layout."""

from libs.fieldsim.sc.soap import ENCODING
from libs.fieldsim.sc.spec import TOWER, Spec

_WSDL = """<?xml version="1.0" encoding="UTF-8"?>
<wsdl:definitions targetNamespace="{namespace}"
    xmlns:impl="{namespace}"
    xmlns:soapenc="{encoding}"
    xmlns:wsdl="http://schemas.xmlsoap.org/wsdl/"
    xmlns:wsdlsoap="http://schemas.xmlsoap.org/wsdl/soap/">
  <wsdl:message name="invokeRequest"><wsdl:part name="xmlData" type="soapenc:string"/></wsdl:message>
  <wsdl:message name="invokeResponse"><wsdl:part name="invokeReturn" type="soapenc:string"/></wsdl:message>
  <wsdl:portType name="SCService">
    <wsdl:operation name="invoke" parameterOrder="xmlData">
      <wsdl:input message="impl:invokeRequest" name="invokeRequest"/>
      <wsdl:output message="impl:invokeResponse" name="invokeResponse"/>
    </wsdl:operation>
  </wsdl:portType>
  <wsdl:binding name="SCServiceSoapBinding" type="impl:SCService">
    <wsdlsoap:binding style="rpc" transport="http://schemas.xmlsoap.org/soap/http"/>
    <wsdl:operation name="invoke">
      <wsdlsoap:operation soapAction=""/>
      <wsdl:input name="invokeRequest">
        <wsdlsoap:body encodingStyle="{encoding}" namespace="{namespace}" use="encoded"/>
      </wsdl:input>
      <wsdl:output name="invokeResponse">
        <wsdlsoap:body encodingStyle="{encoding}" namespace="{namespace}" use="encoded"/>
      </wsdl:output>
    </wsdl:operation>
  </wsdl:binding>
  <wsdl:service name="SCServiceService">
    <wsdl:port binding="impl:SCServiceSoapBinding" name="SCService">
      <wsdlsoap:address location="{address}"/>
    </wsdl:port>
  </wsdl:service>
</wsdl:definitions>
"""


def sc_wsdl(address: str, spec: Spec = TOWER) -> bytes:
    """Return the document with the address that the request came to."""
    escaped = address.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return _WSDL.format(namespace=spec.sc_namespace, encoding=ENCODING, address=escaped).encode()
