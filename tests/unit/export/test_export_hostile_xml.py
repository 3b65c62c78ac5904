"""What comes from outside raises our errors or none at all, and costs no more than its size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.export.dialects import Dialects, soap
from services.export.dialects import messages as m
from services.export.dialects.base import Command, open_message
from services.export.dialects.xmlsafe import MalformedXml, clean, parse_bytes, parse_text

TOWER = Dialects.shipped().named("T")


ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
PAYLOAD = (
    '<?xml version="1.0" encoding="UTF-8"?><Request><PK_Type><Name>GET_FSUINFO</Name><Code>1701</Code></PK_Type>'
    "<Info><FsuId>44010643800017</FsuId><FsuCode>44010643800017</FsuCode></Info></Request>"
)
UNIT = m.UnitRef("44010643800017", "44010643800017")


def call(inner: str, *, prefix: str = "soap", envelope: str = ENVELOPE) -> bytes:
    return (
        f'<{prefix}:Envelope xmlns:{prefix}="{envelope}"><{prefix}:Header/><{prefix}:Body>'
        f'<x:invoke xmlns:x="http://FSUService.chinatowercom.com">{inner}</x:invoke></{prefix}:Body></{prefix}:Envelope>'
    ).encode()


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@pytest.mark.parametrize(
    "body",
    [
        call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>"),
        call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>", prefix="SOAP-ENV"),
        call(f"<xmlData><![CDATA[{PAYLOAD}]]></xmlData>"),
        call(f"<xmlData>{PAYLOAD.split('?>', 1)[1]}</xmlData>"),
        call(f"<xmldata>\ufeff\n  {escaped(PAYLOAD)}</xmldata>"),
        b"\xef\xbb\xbf" + call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>"),
        call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>").decode().encode("utf-16"),
        b'<?xml version="1.0" encoding="GB18030"?>' + call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>"),
        call(f"<!-- c --><xmlData><!-- c -->{escaped(PAYLOAD)}</xmlData>"),
    ],
    ids=["escaped", "prefix", "CDATA", "nested", "mark and case", "UTF-8 mark", "UTF-16", "GB18030", "comments"],
)
def test_every_form_of_a_call_is_taken(body: bytes) -> None:
    assert TOWER.read_request(open_message(soap.read_request(body))) == m.ReadStatus(UNIT)


BOMB = "<!DOCTYPE a [" + "".join(
    f'<!ENTITY e{n} "{("&e" + str(n - 1) + ";") * 10 if n else "lol"}">' for n in range(10)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    "document",
    [
        BOMB + "<a>&e9;</a>",
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x"> %x;]><a/>',
        "<!DOCTYPE a><a/>",
        "<a>&undefined;</a>",
        "<a>" * 400 + "</a>" * 400,
        "<a><b></a></b>",
        "",
        "\x00",
        "<a/>" + "<b/>",
        '<a x="1" x="2"/>',
    ],
    ids=["entity bomb", "external DTD", "file entity", "parameter entity", "empty DTD", "undefined entity", "too deep",
         "not nested", "empty", "zero byte", "two roots", "attribute twice"],
)  # fmt: skip
def test_dangerous_and_broken_documents_are_refused(document: str) -> None:
    with pytest.raises(MalformedXml):
        parse_text(document)
    with pytest.raises(MalformedXml):
        parse_bytes(document.encode())
    with pytest.raises(InvalidInput):
        soap.read_request(call(f"<xmlData>{escaped(document)}</xmlData>" if "\x00" not in document else document))


def test_size_is_bounded_before_anything_is_parsed() -> None:
    with pytest.raises(MalformedXml, match="larger than 100 bytes"):
        parse_bytes(b"<a>" + b"x" * 200 + b"</a>", limit=100)


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        call("<other/>"),
        call(f"<xmlData>{escaped(PAYLOAD)}</xmlData>", envelope="http://www.w3.org/2003/05/soap-envelope"),
        f'<s:Envelope xmlns:s="{ENVELOPE}"/>'.encode(),
        f'<s:Envelope xmlns:s="{ENVELOPE}"><s:Body>{PAYLOAD.split("?>", 1)[1]}</s:Body></s:Envelope>'.encode(),
    ],
    ids=["no envelope", "no xmlData", "SOAP 1.2", "no body", "not wrapped"],
)
def test_what_is_no_call_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(soap.NotSoap):
        soap.read_request(body)


def test_a_fault_is_told_with_its_words() -> None:
    with pytest.raises(soap.SoapFault, match="Method 'Request' not implemented"):
        soap.read_response(soap.write_fault("Client", "Method 'Request' not implemented"))


TAGS = st.sampled_from(
    ["Request", "PK_Type", "Name", "Code", "Info", "FsuId", "FsuCode", "DeviceList", "Device", "Id", "Value", "Values",
     "TSemaphore", "TThreshold", "Time", "Years", "StartTime", "SCIP", "x"]
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from([command.name for command in TOWER.commands]),
    st.sampled_from([str(command.code) for command in TOWER.commands]),
    st.sampled_from(["44010643800017", "9" * 14, "9" * 10, "2025-03-08 00:00:00", "nan", "1e999", "-1", ""]),
    st.text(max_size=20),
)


@st.composite
def trees(draw: st.DrawFn, depth: int = 4) -> str:
    tag = draw(TAGS)
    attributes = "".join(
        f' {name}="{escaped(clean(draw(TEXTS))).replace(chr(34), "")}"'
        for name in draw(st.lists(st.sampled_from(["Id", "Code", "Type", "SetupVal", "Threshold"]), unique=True))
    )
    inner = escaped(clean(draw(TEXTS)))
    if depth:
        inner += "".join(draw(st.lists(trees(depth=depth - 1), max_size=3)))
    return f"<{tag}{attributes}>{inner}</{tag}>"


def answer(document: str) -> None:
    """What the listener does with a payload, as far as no database is needed."""
    incoming = open_message(soap.read_request(call(f"<xmlData>{escaped(document)}</xmlData>")))
    try:
        TOWER.read_request(incoming)
    finally:
        # Whatever is asked, a well-formed no can be said.
        parse_text(TOWER.write_reply(incoming, m.Outcome(TOWER.unit_of(incoming), ok=False)))


@given(kind=trees(depth=2), info=st.lists(trees(), max_size=4))
def test_any_tree_of_the_dialect_s_words_is_answered_or_refused(kind: str, info: list[str]) -> None:
    document = f"<Request><PK_Type>{kind}</PK_Type><Info>{''.join(info)}</Info></Request>"
    try:
        answer(document)
    except InvalidInput:
        return


@given(name=st.sampled_from(TOWER.commands), info=st.lists(trees(), max_size=4))
def test_any_body_of_a_known_command_is_answered_or_refused(name: Command, info: list[str]) -> None:
    kind = f"<Name>{name.name}</Name><Code>{name.code}</Code>"
    try:
        answer(f"<Request><PK_Type>{kind}</PK_Type><Info>{''.join(info)}</Info></Request>")
    except InvalidInput:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_our_error(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        soap.read_request(body)


@given(st.text(max_size=300))
def test_any_text_as_a_centre_s_answer_is_refused_with_our_error(text: str) -> None:
    with pytest.raises(InvalidInput):
        TOWER.read_reply(text, m.Operation.REPORT_ALARMS)


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_an_alarm_says_the_message_stays_well_formed(name: str, device: str) -> None:
    from datetime import UTC, datetime

    at = datetime(2026, 3, 1, tzinfo=UTC)
    report = m.AlarmReport(
        serial=1, device=m.DeviceRef(device, device), point_id="0416001001", flag=m.AlarmFlag.END, at=at, level=1,
        text=TOWER.fit_text(name, "(1.0V)"), began_at=at,
    )  # fmt: skip
    text = TOWER.write_request(m.ReportAlarms(UNIT, (report,)), m.Operation.REPORT_ALARMS)
    body = soap.write_request(text, TOWER.centre)
    root = soap.read_request(body)
    description = root.findtext("Info/Values/TAlarmList/TAlarm/AlarmDesc")
    assert len((description or "").encode()) <= 40
