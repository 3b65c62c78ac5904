"""Scope 2 by both methods, and certificates that count once."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.certificates import (
    Certificate,
    CertificateRefused,
    CertificateUsedTwice,
    InstrumentKind,
    check_certificates,
    spread,
)
from services.carbon.domain.emissions.electricity import (
    Covered,
    Netting,
    Purchase,
    location_based,
    market_based,
)
from services.carbon.domain.emissions.knowledge import Emission, Knowledge
from services.carbon.domain.factors import Place
from services.carbon.domain.figures import Mark
from services.carbon.library import load_library

NOW = Knowledge(load_library(), date(2026, 11, 21))
GUANGDONG = Place("44")
GREEN = Certificate(
    number="GEC-1",
    kind=InstrumentKind.CERTIFICATE,
    market="CN",
    vintage=2023,
    technology="wind",
    beneficiary="org-1",
    cancelled_on=date(2024, 2, 1),
    sold_with_power=False,
    evidence="gec-1.pdf",
)


def market(purchase: Purchase, *, year: int = 2023, netting: Netting = Netting.NONE) -> Emission:
    return market_based(NOW, purchase, place=GUANGDONG, year=year, netting=netting)


def location(purchase: Purchase, *, year: int = 2023, netting: Netting = Netting.NONE) -> Emission:
    return location_based(NOW, purchase, place=GUANGDONG, year=year, netting=netting)


class TestMethods:
    def test_both_stand_side_by_side_and_certificates_change_only_one(self) -> None:
        # Guangdong 2023: 0.4419; residual of 2023: 0.6096 kgCO2/kWh.
        bare = Purchase(imported_kwh=10_000, origin="meter")
        green = replace(bare, covered=[Covered(4000)])
        assert location(bare).figure.value == pytest.approx(4419)
        assert location(green).figure.value == pytest.approx(4419)
        assert market(bare).figure.value == pytest.approx(6096)
        found = market(green)
        assert found.figure.value == pytest.approx(6000 * 0.6096)
        assert found.facts == {"covered_kwh": 4000, "uncovered_kwh": 6000, "surplus_kwh": 0, "coverage": 0.4}

    def test_more_certificates_than_consumption_do_not_make_it_negative(self) -> None:
        found = market(Purchase(imported_kwh=500, covered=[Covered(1000)], origin="meter"))
        assert (found.figure.value, found.facts["surplus_kwh"], found.facts["coverage"]) == (0.0, 500, 1.0)
        assert Mark.SURPLUS_CERTIFICATES in found.figure.marks

    def test_own_photovoltaics_count_only_where_their_certificates_were_sold(self) -> None:
        kept = Purchase(imported_kwh=1000, own_pv_kwh=200, origin="meter")
        sold = replace(kept, own_pv_certificates_sold=True)
        assert market(kept).figure.value == pytest.approx(609.6)
        assert market(sold).figure.value == pytest.approx(1200 * 0.6096)
        assert location(kept).figure.value == location(sold).figure.value == pytest.approx(441.9)

    def test_exported_power_is_subtracted_by_the_guideline_only(self) -> None:
        purchase = Purchase(imported_kwh=1000, exported_kwh=300, origin="meter")
        assert location(purchase).figure.value == pytest.approx(441.9)
        assert location(purchase, netting=Netting.GUIDELINE).figure.value == pytest.approx(700 * 0.4419)
        assert market(purchase, netting=Netting.GUIDELINE).figure.value == pytest.approx(700 * 0.6096)
        exporter = Purchase(imported_kwh=100, exported_kwh=300, origin="meter")
        assert market(exporter, netting=Netting.GUIDELINE).figure.value == 0.0

    def test_a_year_without_a_trusted_residual_takes_the_national_average_and_says_so(self) -> None:
        # The residual factor of 2021 is from memory in the library; the average of 2021 is 0.5568.
        found = market(Purchase(imported_kwh=1000, origin="meter"), year=2021)
        assert found.figure.value == pytest.approx(556.8)
        assert Mark.AVERAGE_FOR_RESIDUAL in found.figure.marks

    def test_a_year_that_has_neither_yet_takes_the_last_average_as_provisional(self) -> None:
        # The national average of 2023 is 0.5306 kgCO2/kWh.
        found = market(Purchase(imported_kwh=1000, origin="meter"), year=2026)
        assert found.figure.value == pytest.approx(530.6)
        assert {Mark.PROVISIONAL_FACTOR, Mark.AVERAGE_FOR_RESIDUAL} <= found.figure.marks

    def test_unknown_energy_is_an_unknown_emission_and_never_zero(self) -> None:
        purchase = Purchase(imported_kwh=None, covered=[Covered(1000)], origin="meter")
        assert location(purchase).figure.value is None
        found = market(purchase)
        assert found.figure.value is None
        assert set(found.facts.values()) == {None}

    def test_full_coverage_needs_no_residual_factor(self) -> None:
        old = Knowledge(NOW.library, date(2020, 1, 1))
        found = market_based(
            old, Purchase(imported_kwh=1000, covered=[Covered(1000)], origin="m"), place=GUANGDONG, year=2019
        )
        assert found.figure.value == 0.0

    def test_negative_energy_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="imported: expected 0 or more, found -1"):
            location(Purchase(imported_kwh=-1, origin="meter"))

    @given(
        imported=st.floats(0, 1e9),
        pv=st.floats(0, 1e6),
        exported=st.floats(0, 1e9),
        covered=st.lists(st.floats(0, 1e8), max_size=4),
        netting=st.sampled_from(Netting),
    )
    def test_the_market_based_figure_is_never_negative_and_coverage_never_above_need(
        self, imported: float, pv: float, exported: float, covered: list[float], netting: Netting
    ) -> None:
        purchase = Purchase(
            imported_kwh=imported,
            exported_kwh=exported,
            own_pv_kwh=pv,
            own_pv_certificates_sold=True,
            covered=[Covered(kwh) for kwh in covered],
            origin="meter",
        )
        found = market(purchase, netting=netting)
        assert found.figure.value is not None
        assert found.figure.value >= 0
        uncovered, used = found.facts["uncovered_kwh"], found.facts["covered_kwh"]
        assert uncovered is not None
        assert used is not None
        drawn = max(0.0, imported - exported) if netting is Netting.GUIDELINE else imported
        assert used + uncovered == pytest.approx(drawn + pv, rel=1e-9, abs=1e-6)
        assert found.figure.value == pytest.approx(uncovered * 0.6096, rel=1e-9)


class TestCertificates:
    def check(self, *certificates: Certificate, used: dict[str, str] | None = None) -> None:
        check_certificates(certificates, year=2023, organisation="org-1", inventory="inv-1", used=used or {})

    def test_a_certificate_that_another_inventory_uses_is_refused(self) -> None:
        with pytest.raises(CertificateUsedTwice, match="GEC-1 is used by inv-0 already"):
            self.check(GREEN, used={"GEC-1": "inv-0"})

    def test_the_restatement_of_an_inventory_keeps_its_certificates(self) -> None:
        self.check(GREEN, used={"GEC-1": "inv-1"})

    def test_a_certificate_named_twice_is_refused(self) -> None:
        with pytest.raises(CertificateUsedTwice, match="used by this list"):
            self.check(GREEN, GREEN)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"cancelled_on": None}, "neither cancelled nor allocated"),
            ({"beneficiary": "org-2"}, "cancelled for org-2, not org-1"),
            ({"market": "IE"}, "market is IE"),
            ({"vintage": 2022}, "vintage is 2022, expected 2023"),
            ({"sold_with_power": True}, "sold with the power"),
            ({"kwh": 1001.0}, "stands for 1001 kWh"),
            ({"evidence": ""}, "no evidence"),
        ],
    )
    def test_a_certificate_that_does_not_count_is_refused_with_its_reason(
        self, changes: dict[str, object], reason: str
    ) -> None:
        with pytest.raises(CertificateRefused, match=reason):
            self.check(replace(GREEN, **changes))  # type: ignore[arg-type]

    def test_all_reasons_are_told_in_both_languages(self) -> None:
        with pytest.raises(CertificateRefused) as caught:
            self.check(replace(GREEN, cancelled_on=None, vintage=2022))
        assert "; " in caught.value.message
        assert caught.value.message_zh is not None
        assert "尚未核销" in caught.value.message_zh

    @given(count=st.integers(0, 6), needs=st.lists(st.floats(0, 3000), max_size=5))
    def test_spreading_keeps_every_limit(self, count: int, needs: list[float]) -> None:
        certificates = [replace(GREEN, number=f"GEC-{index}") for index in range(count)]
        wanted = {f"line-{index}": need for index, need in enumerate(needs)}
        found = spread(certificates, wanted)
        for line, need in wanted.items():
            assert sum(one.kwh for one in found if one.line == line) <= need + 1e-6
        for certificate in certificates:
            assert sum(one.kwh for one in found if one.number == certificate.number) <= 1000 + 1e-6
        assert sum(one.kwh for one in found) == pytest.approx(min(count * 1000, sum(needs)), abs=1e-6)
