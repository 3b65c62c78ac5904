"""A report as PDF: Chinese and English, fonts inside, nothing of the machine's, no name that is read as markup."""

import re
import zlib
from collections.abc import Iterator

import pytest

from services.carbon.domain.reports.content import Language
from services.carbon.reports.pdf import write_pdf
from tests.unit.carbon.reports_data import report, table

DIGEST = "ab" * 32


def streams(body: bytes) -> Iterator[bytes]:
    """Yield what the compressed streams of a PDF hold."""
    for found in re.finditer(rb"stream\r?\n", body):
        unpacked = zlib.decompressobj()
        try:
            yield unpacked.decompress(body[found.end() :])
        except zlib.error:
            continue


def everything(body: bytes) -> bytes:
    return body + b"\n".join(streams(body))


@pytest.mark.parametrize("language", Language)
def test_a_report_becomes_a_pdf_whose_fonts_are_inside(language: Language) -> None:
    body = write_pdf(report(), language, DIGEST)
    assert body.startswith(b"%PDF-1.")
    told = everything(body)
    assert b"NotoSansSC" in told
    assert b"FontFile3" in told
    assert len(body) < 400_000  # the glyphs that are used, not the 16 MB of the font


def test_the_same_report_gives_the_same_bytes() -> None:
    assert write_pdf(report(), Language.CHINESE, DIGEST) == write_pdf(report(), Language.CHINESE, DIGEST)


@pytest.mark.parametrize(
    "name",
    [
        "#panic()",
        '#read("/etc/passwd")',
        "$x$ *a* _b_ `c` <d> @e",
        "\\ [ ] { } // /* ~ ' \"",
        "= 1",
        "站 \U0001f600 \U00020000 \u200b \x01",
    ],
)
def test_a_name_is_never_markup(name: str) -> None:
    assert write_pdf(report(table(name)), Language.CHINESE, DIGEST).startswith(b"%PDF-1.")


@pytest.mark.parametrize("values", [(None, None), (0.0, 0.0), (-3.0, 5.0), (-1.0, -2.0), (1e12, None)])
def test_charts_of_odd_values_are_drawn_or_left_out(values: tuple[float | None, float | None]) -> None:
    assert write_pdf(report(table("a", "b", values=values)), Language.ENGLISH, DIGEST).startswith(b"%PDF-1.")


def test_tables_of_many_rows_and_of_none_have_their_pages() -> None:
    many = table(*(f"row {place}" for place in range(300)))
    body = write_pdf(report(many, table(key="empty")), Language.CHINESE, DIGEST)
    count = re.search(rb"/Type\s*/Pages.*?/Count\s+(\d+)", everything(body), re.DOTALL)
    assert count is not None
    assert int(count[1]) > 5
