"""A unit as somebody writes it in an afternoon: it looks at codes only, expands entities, and knows no wildcard.

Shares nothing with the product or the simulator: the standard library's HTTP server and XML parsers.
"""

import html
import re
import threading
import xml.sax
import xml.sax.handler
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

REPLY = (
    '<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/"><S:Body>'
    '<n:invokeResponse xmlns:n="http://{service}.chinatowercom.com"><invokeReturn>{text}</invokeReturn>'
    "</n:invokeResponse></S:Body></S:Envelope>"
)
LONGEST = 100_000
T_UNIT, Y_UNIT = "44010643800017", "44010600000000001"
T_IDS = f"<FsuId>{T_UNIT}</FsuId><FsuCode>{T_UNIT}</FsuCode>"
Y_IDS = f"<SUID>{Y_UNIT}</SUID><Result>1</Result><FailureCode/>"
BODIES = {
    "FSUService": {
        "401": f'{T_IDS}<Result>1</Result><Values><DeviceList><Device Id="44010641600021" Code="44010641600021">'
        '<TSemaphore Type="3" Id="0416104001" MeasuredVal="null" SetupVal="0" Status="0"/>'
        "</Device></DeviceList></Values>",
        "501": "<Result>1</Result>",
        "1701": f"{T_IDS}<TFSUStatus><CPUUsage>12.5</CPUUsage><MEMUsage>41.0</MEMUsage></TFSUStatus><Result>1</Result>",
        "1301": "<Result>1</Result>",
        "1501": T_IDS,
    },
    "SUService": {
        "501": f"{Y_IDS}<Values><DeviceList/></Values>",
        "1001": f"{Y_IDS}<TSUStatus><CPUUsage>1</CPUUsage><MEMUsage>2</MEMUsage>"
        "<SUDateTime>2025-03-08 14:05:00</SUDateTime></TSUStatus>",
        "901": f"<SUID>{Y_UNIT}</SUID><Result>1</Result>",
        "801": f"<SUID>{Y_UNIT}</SUID><UserName>u</UserName><Password>very-secret</Password><FTPPort>ftp</FTPPort>"
        "<Result>1</Result>",
    },
}


class Text(xml.sax.handler.ContentHandler):
    """Collects all text, with every entity resolved, from wherever it is; only to a length, for tests to be quick."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def characters(self, content: str) -> None:
        if len(self.text) > LONGEST and content.strip():
            raise xml.sax.SAXException("enough")
        self.text += content.strip(" ")


class Handler(BaseHTTPRequestHandler):
    """Answers by the code alone."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        found = Text()
        parser = xml.sax.make_parser()
        parser.setFeature(xml.sax.handler.feature_external_ges, True)
        parser.setContentHandler(found)
        try:
            parser.parse(BytesIO(body))
        except (xml.sax.SAXException, OSError, ValueError):
            return self.answer(400, "")
        service = self.path.rsplit("/", 1)[-1]
        code = re.search(r"<Code>(\d+)</Code>", found.text)
        known = None if code is None else BODIES[service].get(code[1])
        if code is None or known is None:
            return self.answer(200, REPLY.format(service=service, text=""))
        name = re.search(r"<Name>(\w+)</Name>", found.text)
        text = (
            f"<Response><PK_Type><Name>{name[1] if name else ''}_ACK</Name><Code>{int(code[1]) + 1}</Code></PK_Type>"
            f"<Info>{known}</Info></Response>"
        )
        return self.answer(200, REPLY.format(service=service, text=html.escape(text)))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def naive_unit() -> Iterator[str]:
    """Run one; yields ``http://host:port``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
