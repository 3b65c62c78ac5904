"""A SOAP stack that is not ours and not Python's asks the units: Apache Axis 1, from nothing but their WSDL."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.integration.export.conftest import Export, Kit, ScriptedCentre
from tests.peers.axis import ask_with_axis

pytestmark = [pytest.mark.integration, pytest.mark.postgres]


async def test_a_java_client_made_from_our_wsdl_polls_a_unit(
    export: Export, centre: ScriptedCentre, kit: Kit, tmp_path: Path
) -> None:
    await export.connect(centre)
    ids = f"<FsuId>{kit.fsu}</FsuId><FsuCode>{kit.fsu}</FsuCode>"
    nines = f'<DeviceList><Device Id="{"9" * 14}" Code="{"9" * 14}"/></DeviceList>'
    asked = [
        f"<Request><PK_Type><Name>{name}</Name><Code>{code}</Code></PK_Type><Info>{ids}{more}</Info></Request>"
        for name, code, more in (("GET_FSUINFO", 1701, ""), ("GET_DATA", 401, nines), ("GET_DATA", 501, nines))
    ]
    url = f"http://127.0.0.1:{export.unit_port}/services/FSUService?wsdl"
    answers = [ET.fromstring(answer) for answer in await ask_with_axis(url, asked, tmp_path / "axis")]
    pairs = [tuple(each.findtext(way) for way in ("PK_Type/Name", "PK_Type/Code", "Info/Result")) for each in answers]
    assert pairs == [("GET_FSUINFO_ACK", "1702", "1"), ("GET_DATA_ACK", "402", "1"), ("GET_DATA_ACK", "502", "0")]
    assert {each.get("Id") for each in answers[1].iter("TSemaphore")} == {
        "0416104001", "0416118001", "0416001001", "0416003001",
    }  # fmt: skip
