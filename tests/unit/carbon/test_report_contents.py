"""What reports of contracts, inventories and savings say: stored figures, each with completeness and reason."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

import pytest

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from libs.common.recurrence import Schedule
from services.carbon.domain.emissions.refrigerants import TopUp
from services.carbon.domain.epc.contract import Contract
from services.carbon.domain.epc.metering import Party
from services.carbon.domain.factors import Place
from services.carbon.domain.inventory.boundary import Approach, Boundary, Exclusion, Part, Span
from services.carbon.domain.inventory.publication import Publication, publish
from services.carbon.domain.inventory.sources import ElectricityUse, GasLoss, Inputs, Source
from services.carbon.domain.reports.content import (
    Language,
    Quantity,
    Reason,
    Report,
    ReportKind,
    Section,
    Table,
    Text,
)
from services.carbon.domain.reports.contract import contract_content
from services.carbon.domain.reports.definitions import Definition, FileFormat, SubjectKind, definition_of
from services.carbon.domain.reports.inventory import REQUIRED, Stated, inventory_content
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.domain.savings.measurement.plan import Period
from services.carbon.domain.savings.measurement.prices import AgreedPrices, PriceBand
from services.carbon.domain.savings.shutdowns.executed import ExecutedPart, MeasuredWindow
from services.carbon.domain.savings.shutdowns.totals import total, totals_by
from services.carbon.domain.savings.shutdowns.windows import Mark, Method, Unknown, WindowSaving
from services.carbon.library import load_coal, load_library
from services.carbon.reports.encoding import decode_report, encode_report
from services.carbon.reports.excel import write_excel
from services.carbon.reports.savings import savings_content
from services.carbon.usecases.shutdowns import ShutdownReport
from tests.unit.carbon.test_epc import frozen

AGREED = AgreedPrices(
    prices_id="51-commercial",
    version=3,
    source="annex 2",
    bands=(PriceBand(band="flat", price_cny_per_kwh=0.6, hours=((time(0), None),)),),
)
YEAR = Span(datetime(2023, 1, 1, tzinfo=CIVIL_ZONE), datetime(2024, 1, 1, tzinfo=CIVIL_ZONE))


def whole(sections: tuple[Section, ...], reasons: tuple[Reason, ...]) -> Report:
    """Return a report of these chapters, whose figures the API tells and whose files can be written."""
    found = Report(
        kind=ReportKind.INVENTORY,
        title=Text("T", "题"),
        subject=Text("S", "对象"),
        start=YEAR.start,
        end=YEAR.end,
        known_on=date(2026, 11, 21),
        made_at=datetime(2026, 11, 21, tzinfo=UTC),
        software="0.1.0",
        question="{}",
        sections=sections,
        reasons=reasons,
    )
    assert decode_report(encode_report(found)) == found
    paths = {one.key: one.path for one in found.reasons}
    untold = [one for one in found.quantities() if not (one.trace or paths[one.why]).startswith("/api/v1/")]
    assert not untold  # the API tells every figure
    for language in Language:
        write_excel(found, language, "ab" * 32)
    return found


def tables_of(report: Report) -> dict[str, Table]:
    return {one.key: one for one in report.tables}


def value(cell: object) -> float | None:
    assert isinstance(cell, Quantity)
    return cell.value


class TestInventory:
    def published(self, *, exclusions: tuple[Exclusion, ...] = ()) -> Publication:
        def source(line_id: str, activity: ElectricityUse | GasLoss, category: str, **more: float | None) -> Source:
            return Source(
                line_id=line_id, node="site-1", place=Place("44"), category=category, span=YEAR, activity=activity,
                origin="meter", completeness=more.get("completeness"),
            )  # fmt: skip

        inputs = Inputs(
            boundary=Boundary("org-1", Approach.OPERATIONAL_CONTROL, [Part("site-1", YEAR)], exclusions),
            sources=[
                source("grid", ElectricityUse(imported_kwh=10_000.0), "electricity", completeness=0.98),
                source("lost", ElectricityUse(imported_kwh=None), "electricity"),
                source("r410a", GasLoss(gas="R410A", loss=TopUp(added=2.0, not_recovered=0.0)), "fugitive"),
            ],
        )
        publication, _ = publish(
            inputs, load_library(), inventory_id="inv-1", version=2, known_on=date(2026, 11, 21),
            at=datetime(2026, 11, 21, tzinfo=UTC), by="user:wang", software="0.1.0", coal=load_coal(),
        )  # fmt: skip
        return publication

    def content(self, publication: Publication, **stated: str) -> Report:
        said = {Stated(key): text for key, text in stated.items()}
        return whole(*inventory_content(publication, digest="cd" * 32, names={"site-1": "一号楼"}, stated=said))

    def test_totals_are_those_that_were_published_in_tonnes(self) -> None:
        one = self.published()
        rows = tables_of(self.content(one))["totals"].rows
        assert one.location.kg_co2e is not None
        assert value(rows[0][1]) == pytest.approx(one.location.kg_co2e / 1000, rel=1e-12)

    def test_a_line_that_is_not_known_is_told_and_makes_the_total_incomplete(self) -> None:
        tables = tables_of(self.content(self.published()))
        total_cell = tables["totals"].rows[0][1]
        assert isinstance(total_cell, Quantity)
        assert total_cell.completeness == pytest.approx(2 / 3)
        assert "unknown_input" in total_cell.marks
        lost = next(row for row in tables["lines"].rows if row[0] == "lost")
        assert value(lost[5]) is None

    def test_every_line_has_its_own_formula_and_inputs(self) -> None:
        report = self.content(self.published())
        grid = next(row for row in tables_of(report)["lines"].rows if row[0] == "grid")[5]
        assert isinstance(grid, Quantity)
        reason = next(one for one in report.reasons if one.key == grid.why)
        assert reason.path == "/api/v1/inventories/inv-1/versions/2#grid"
        assert any("10000" in one for one in reason.origins)
        assert any("factor" in one for one in reason.origins)

    def test_what_the_standards_ask_for_stands_where_the_report_says(self) -> None:
        report = self.content(self.published(), responsible="Wang")
        assert {one.section for one in REQUIRED} <= {one.key for one in report.sections}
        assert {row[2] for row in tables_of(report)["required"].rows} <= {one.key for one in report.sections}

    def test_what_nobody_stated_is_said_to_be_not_stated(self) -> None:
        tables = tables_of(self.content(self.published(), responsible="Wang"))
        who = {row[0].en: row[1] for row in tables["who"].rows if isinstance(row[0], Text)}
        assert who["responsible person"] == "Wang"
        assert who["standards followed"] == Text("not stated", "未说明")

    def test_exclusions_keep_their_reasons(self) -> None:
        one = self.published(exclusions=(Exclusion("commuting", "small", 0.002),))
        assert tables_of(self.content(one))["exclusions"].rows == (("commuting", "small", "0.2%"),)


class TestContract:
    def contract(self) -> Contract:
        return Contract(
            contract_id="c1",
            version=1,
            name="Lamps",
            name_zh="照明",
            names={Party.CUSTOMER: "Customer", Party.COMPANY: "Company"},
            signers={Party.CUSTOMER: ("user:li",), Party.COMPANY: ("user:wang",)},
            circuits=("branch",),
            basis=Basis.COMPARISON,
            before=Period(start=date(2023, 1, 1), end=date(2023, 2, 1)),
            driver="days",
            driver_before=1.0,
            load_circuits=(),
            prices=AGREED,
            company_share=frozen().content.company_share,
            start=date(2024, 1, 1),
            end=date(2026, 1, 1),
        )

    def test_it_prints_what_was_signed_to_the_fen(self) -> None:
        one = frozen()
        tables = tables_of(whole(*contract_content(one, self.contract())))
        shares = {row[0].en: value(row[1]) for row in tables["shares"].rows if isinstance(row[0], Text)}
        assert shares == {
            "saved money": 100.0, "share of the energy-service company": 70.0, "share of the customer": 30.0,
        }  # fmt: skip
        assert value(tables["registers"].rows[0][6]) == 800.0
        signed = [row[1] for row in tables["signatures"].rows]
        assert signed[0] == one.content.digest
        assert all(isinstance(one_, str) and one.content.digest in one_ for one_ in signed[1:])

    def test_a_draft_says_that_it_is_one(self) -> None:
        draft = replace(frozen(), signatures=(), state=type(frozen().state)("draft"))
        tables = tables_of(whole(*contract_content(draft, self.contract())))
        assert Text("not signed", "未签署") in [row[1] for row in tables["signatures"].rows]
        assert Text("draft", "草稿") in [row[1] for row in tables["parties"].rows]


class TestSavings:
    def window(self, saving_kwh: float | None, *, hour: int = 0) -> WindowSaving:
        start = datetime(2026, 3, 2, hour, tzinfo=CIVIL_ZONE)
        part = ExecutedPart("load-1", start, start + timedelta(hours=1), "occ-1", "plan-1")
        return WindowSaving(
            circuit_id="branch",
            window=MeasuredWindow(start, start + timedelta(hours=1), (part,)),
            post_end=start + timedelta(hours=2),
            saving_kwh=saving_kwh,
            variance_kwh2=0.01 if saving_kwh is not None else None,
            reason=None if saving_kwh is not None else Unknown.NO_BASELINE,
            method=Method.CLEAN_DAYS if saving_kwh is not None else None,
            baseline_kwh=3.0,
            actual_kwh=1.0,
            rebound_kwh=0.0,
            marks=frozenset({Mark.FEW_CLEAN_DAYS}),
            interval_completeness=1.0,
            emission_kg=1.0 if saving_kwh is not None else None,
            money_cny=None,
        )

    def report(self, *windows: WindowSaving) -> ShutdownReport:
        return ShutdownReport(
            start=datetime(2026, 3, 1, tzinfo=CIVIL_ZONE),
            end=datetime(2026, 4, 1, tzinfo=CIVIL_ZONE),
            windows=windows,
            total=total(windows),
            by_occurrence={},
            by_plan={key: one for key, one in totals_by(windows, lambda part: part.plan_id).items() if key},
            by_circuit={"branch": total(windows)} if windows else {},
            by_site={"site-1": total(windows)} if windows else {},
        )

    def test_sums_say_how_many_windows_are_known_and_windows_what_they_came_of(self) -> None:
        found = self.report(self.window(2.0), self.window(None, hour=5))
        report = whole(*savings_content(found, asked={"site": "site-1"}, names={"site-1": "一号楼"}))
        tables = tables_of(report)
        saved = tables["summary"].rows[0][1]
        assert isinstance(saved, Quantity)
        assert (saved.value, saved.completeness) == (2.0, 0.5)
        assert "incomplete" in saved.marks
        unknown = tables["windows"].rows[1][6]
        assert isinstance(unknown, Quantity)
        assert unknown.value is None
        assert unknown.marks[0] == "no_baseline"
        reason = next(one for one in report.reasons if one.key == unknown.why)
        assert reason.path == "/api/v1/savings/shutdowns/occ-1"
        assert tables["by_site"].rows[0][0] == "一号楼"

    def test_a_price_that_is_missing_is_no_zero(self) -> None:
        found = self.report(self.window(2.0))
        tables = tables_of(whole(*savings_content(found, asked={"plan": "plan-1"}, names={})))
        worth = tables["summary"].rows[3][1]
        assert isinstance(worth, Quantity)
        assert worth.value is None
        assert worth.marks == ("unknown_price",)

    def test_a_month_without_shutdowns_is_a_report_of_none(self) -> None:
        tables = tables_of(whole(*savings_content(self.report(), asked={"site": "s"}, names={})))
        assert tables["windows"].rows == ()


class TestDefinition:
    def definition(self, **more: object) -> Definition:
        fields: dict[str, object] = {
            "definition_id": "park-monthly",
            "version": 3,
            "kind": ReportKind.ENERGY_MONTHLY,
            "name": Text("Park", "园区"),
            "subject_kind": SubjectKind.ORGANISATION,
            "subject_id": "org-1",
            "languages": (Language.CHINESE, Language.ENGLISH),
            "schedule": Schedule("FREQ=MONTHLY;BYMONTHDAY=3", date(2026, 1, 1)),
            **more,
        }
        return Definition(**fields)  # type: ignore[arg-type]

    def test_it_reads_back_from_what_is_stored(self) -> None:
        one = self.definition()
        assert definition_of(one.document(), version=3) == one
        two = self.definition(
            kind=ReportKind.INVENTORY, subject_kind=SubjectKind.INVENTORY, schedule=None,
            stated={Stated.BASE_YEAR: "2020"}, formats=(FileFormat.PDF,),
        )  # fmt: skip
        assert definition_of(two.document(), version=3) == two

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            ({"definition_id": "Park"}, "definition_id"),
            ({"definition_id": "a/b"}, "definition_id"),
            ({"subject_kind": SubjectKind.CONTRACT}, "subject_kind"),
            ({"languages": ()}, "languages"),
            ({"formats": (FileFormat.PDF, FileFormat.PDF)}, "formats"),
            ({"stated": {Stated.BASE_YEAR: "2020"}}, "stated"),
            ({"kind": ReportKind.INVENTORY, "subject_kind": SubjectKind.INVENTORY}, "schedule"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, more: dict[str, object], named: str) -> None:
        with pytest.raises(InvalidInput, match=named):
            self.definition(**more)

    def test_a_period_that_is_not_over_is_refused(self) -> None:
        end = datetime(2026, 4, 1, tzinfo=CIVIL_ZONE)
        self.definition().check_edition("2026-03", end)
        with pytest.raises(InvalidInput, match="a period that is over"):
            self.definition().check_edition("2026-03", end - timedelta(seconds=1))

    @pytest.mark.parametrize("edition", ["3", "v0", "v01", "V3", "v3 ", ""])
    def test_an_inventory_is_named_by_its_version(self, edition: str) -> None:
        one = self.definition(kind=ReportKind.INVENTORY, subject_kind=SubjectKind.INVENTORY, schedule=None)
        one.check_edition("v3", datetime(2026, 1, 1, tzinfo=UTC))
        with pytest.raises(InvalidInput, match="edition"):
            one.check_edition(edition, datetime(2026, 1, 1, tzinfo=UTC))
