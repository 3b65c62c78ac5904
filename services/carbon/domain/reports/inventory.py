"""The contents of an inventory report: what ISO 14064-1 and GB/T 32150 ask for, item by item, out of a publication.

A publication is frozen, and so is what is told of it: figures are taken from it and none is computed again. What no
computation knows (who is responsible, the base year, whether somebody has verified it) are statements that people
enter with the definition of the report; an item without one says "not stated" and is not left out.

Source:
    ISO 14064-1:2018, 9.3.1; GB/T 32150-2015, contents of the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.carbon.domain.emissions.knowledge import GwpSet
from services.carbon.domain.inventory.categories import CATEGORIES, Scope
from services.carbon.domain.inventory.compute import Total
from services.carbon.domain.inventory.publication import Frozen, FrozenFigure, Publication
from services.carbon.domain.inventory.sources import Source
from services.carbon.domain.reports import words
from services.carbon.domain.reports.building import Reasons, civil, facts, key_figures, path, traced
from services.carbon.domain.reports.content import Cell, Column, ColumnKind, Quantity, Reason, Section, Table, Text

T_CO2E = "tCO2e"
KG_PER_T = 1000.0
LINES_MAX = 5_000
"""Lines of one printed inventory; the filed publication has all of them."""
LINE_REASONS_MAX = 5_000


class Stated(StrEnum):
    """What people state, and no computation knows."""

    RESPONSIBLE = "responsible"
    DESCRIPTION = "description"
    STANDARD = "standard"
    BASE_YEAR = "base_year"
    BASE_YEAR_CHANGES = "base_year_changes"
    BOUNDARY_CHANGES = "boundary_changes"
    SIGNIFICANCE = "significance"
    METHOD_CHANGES = "method_changes"
    REMOVALS = "removals"
    QUALITY = "quality"
    VERIFICATION = "verification"


STATED_TITLES: dict[Stated, Text] = {
    Stated.RESPONSIBLE: Text("responsible person", "报告负责人"),
    Stated.DESCRIPTION: Text("description of the organisation", "报告主体基本情况"),
    Stated.STANDARD: Text("standards followed", "依据标准"),
    Stated.BASE_YEAR: Text("base year and its inventory", "基准年及其清单"),
    Stated.BASE_YEAR_CHANGES: Text("changes of the base year, recalculation", "基准年变更与重新计算"),
    Stated.BOUNDARY_CHANGES: Text("changes of the boundary", "边界变化"),
    Stated.SIGNIFICANCE: Text("criteria for significant indirect emissions", "重大间接排放判定准则"),
    Stated.METHOD_CHANGES: Text("changes of methods", "量化方法变更"),
    Stated.REMOVALS: Text("removals and offsets, outside of the totals", "清除与抵销(不计入合计)"),
    Stated.QUALITY: Text(
        "quality plan: roles, calibration, checks, corrective actions", "质量管理:职责、检定、检查与纠正"
    ),
    Stated.VERIFICATION: Text("verification and level of assurance", "核查情况与保证等级"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Required:
    """Something that a report has to tell, and where it stands."""

    item: Text
    clauses: str
    section: str
    """Key of the section that tells it."""


REQUIRED: tuple[Required, ...] = tuple(
    Required(item=Text(en, zh), clauses=clauses, section=section)
    for en, zh, clauses, section in (
        ("organisation, responsible, period", "报告主体、负责人、报告期", "ISO 14064-1 9.3.1; GB/T 32150", "who"),
        ("organisational boundary and approach", "组织边界与合并方法", "ISO 14064-1 9.3.1", "boundary"),
        ("reporting boundary and significance", "报告边界与重大性准则", "ISO 14064-1 9.3.1", "boundary"),
        ("direct emissions by gas", "直接排放(分气体)", "ISO 14064-1 9.3.1", "gases"),
        ("biogenic carbon dioxide", "生物源二氧化碳", "ISO 14064-1 9.3.1", "gases"),
        ("removals", "温室气体清除", "ISO 14064-1 9.3.1", "removals"),
        ("exclusions and their reasons", "排除项及理由", "ISO 14064-1 9.3.1", "boundary"),
        ("indirect emissions by category", "间接排放(分类别)", "ISO 14064-1 9.3.1; GB/T 32150", "totals"),
        ("base year and its changes", "基准年及变更", "ISO 14064-1 9.3.1", "base_year"),
        ("methods and their changes", "量化方法及变更", "ISO 14064-1 9.3.1", "methods"),
        ("activity data and their sources", "活动数据及来源", "GB/T 32150", "lines"),
        ("factors", "排放因子及来源", "ISO 14064-1 9.3.1; GB/T 32150", "factors"),
        ("uncertainty", "不确定性", "ISO 14064-1 9.3.1", "uncertainty"),
        ("statement of conformity", "符合性声明", "ISO 14064-1 9.3.1", "who"),
        ("verification", "核查", "ISO 14064-1 9.3.1", "verification"),
        ("global warming potentials", "全球变暖潜势", "ISO 14064-1 9.3.1", "factors"),
        ("purchased electricity, certificates", "外购电力两种方法与绿证", "GHG Protocol Scope 2, 7", "electricity"),
        ("attestation", "存证", "carbon README, Attestation", "attestation"),
    )
)  # fmt: skip

_GWP = {
    GwpSet.AR5: Text("IPCC, Fifth Assessment Report, 100 years", "IPCC 第五次评估报告,100 年"),
    GwpSet.AR6: Text("IPCC, Sixth Assessment Report, 100 years", "IPCC 第六次评估报告,100 年"),
}


def inventory_content(
    one: Publication, *, digest: str, names: Mapping[str, str], stated: Mapping[Stated, str]
) -> tuple[tuple[Section, ...], tuple[Reason, ...]]:
    """Return the chapters of the report of a published inventory, and its reasons.

    Args:
        one: As published.
        digest: SHA-256 of its filed text.
        names: Names of nodes by id; one that is not there is called by its id.
        stated: What people have stated.
    """
    reasons = Reasons()
    sections = (
        _who(one, names, stated),
        _boundary(one, names, stated),
        _totals(one, reasons),
        _gases(one, reasons),
        _electricity(one, reasons),
        _lines(one, names, reasons),
        _used(one, reasons),
        _said("methods", Text("Methods", "量化方法"), stated, Stated.METHOD_CHANGES, _METHODS),
        _said("base_year", Text("Base year", "基准年"), stated, Stated.BASE_YEAR, None, Stated.BASE_YEAR_CHANGES),
        _uncertainty(one, reasons),
        _said("removals", Text("Removals and offsets", "清除与抵销"), stated, Stated.REMOVALS, _OUTSIDE),
        _said("quality", Text("Quality plan", "质量管理"), stated, Stated.QUALITY, None),
        _said("verification", Text("Verification", "核查"), stated, Stated.VERIFICATION, None),
        _attestation(one, digest),
        _required(),
    )
    return sections, reasons.all()


_METHODS = Text(
    "Activity data times emission factors; every line below names its formula, inputs and factors. Purchased "
    "electricity is told by both methods of the GHG Protocol's Scope 2 Guidance.",
    "活动数据乘以排放因子;下列每一行均给出公式、输入数据与因子。外购电力按 GHG Protocol 范围二指南的两种方法报告。",
)
_OUTSIDE = Text(
    "Removals, offsets and avoided emissions are in no total of this report.",
    "清除量、抵销量与避免排放均不计入本报告合计。",
)


def _statement_path(one: Publication) -> str:
    return path(f"inventories/{one.inventory_id}/versions/{one.version}")


def _who(one: Publication, names: Mapping[str, str], stated: Mapping[Stated, str]) -> Section:
    boundary = one.inputs.boundary
    span = boundary.span
    said = [_row(key, stated) for key in (Stated.RESPONSIBLE, Stated.DESCRIPTION, Stated.STANDARD)]
    rows: list[tuple[Text, Text | str]] = [
        (Text("organisation", "报告主体"), names.get(boundary.organisation, boundary.organisation)),
        (Text("period", "报告期"), f"{civil(span.start)} – {civil(span.end)}"),
        *said,
        (Text("inventory, version", "清单、版本"), f"{one.inventory_id} v{one.version}"),
        (Text("published", "发布"), f"{civil(one.published_at)}, {one.published_by}"),
        (Text("factors as known on", "因子截止日"), one.known_on.isoformat()),
    ]
    return Section(
        key="who", title=Text("Organisation and period", "报告主体与报告期"), tables=(facts("who", _WHO, rows),)
    )


_WHO = Text("Who and when", "基本信息")


def _row(key: Stated, stated: Mapping[Stated, str]) -> tuple[Text, Text | str]:
    return STATED_TITLES[key], stated.get(key) or words.NOT_STATED


def _said(
    key: str, title: Text, stated: Mapping[Stated, str], first: Stated, told: Text | None, *more: Stated
) -> Section:
    table = facts(key, title, [_row(each, stated) for each in (first, *more)])
    return Section(key=key, title=title, paragraphs=() if told is None else (told,), tables=(table,))


def _boundary(one: Publication, names: Mapping[str, str], stated: Mapping[Stated, str]) -> Section:
    boundary = one.inputs.boundary
    parts: list[tuple[Cell, ...]] = [
        (
            names.get(part.node, part.node),
            part.node,
            civil(part.span.start),
            civil(part.span.end),
            f"{part.share:.4g}",
            part.share_reason or None,
        )
        for part in boundary.parts
    ]
    columns = (
        Column(key="name", title=Text("name", "名称")),
        Column(key="node", title=Text("node", "节点")),
        Column(key="from", title=Text("from", "起"), kind=ColumnKind.TIME),
        Column(key="to", title=Text("to", "止"), kind=ColumnKind.TIME),
        Column(key="share", title=Text("share", "比例")),
        Column(key="reason", title=Text("reason of the share", "比例依据")),
    )
    excluded: list[tuple[Cell, ...]] = [
        (each.subject, each.reason, None if each.significance is None else f"{each.significance:.1%}")
        for each in boundary.exclusions
    ]
    exclusions = (
        Column(key="subject", title=Text("excluded", "排除项")),
        Column(key="reason", title=Text("reason", "理由")),
        Column(key="significance", title=Text("estimated share", "估计占比")),
    )
    approach = words.APPROACHES.get(boundary.approach.value, Text(boundary.approach.value, boundary.approach.value))
    included = sorted({line.category for line in one.lines}, key=list(CATEGORIES).index)
    rows: list[tuple[Text, Text | str]] = [
        (Text("approach", "合并方法"), approach),
        (Text("categories included", "纳入类别"), _listed([words.CATEGORIES[each] for each in included])),
        _row(Stated.SIGNIFICANCE, stated),
        _row(Stated.BOUNDARY_CHANGES, stated),
    ]
    if one.summary.outside:
        rows.append((Text("sources outside, in no total", "边界外的源(不计入合计)"), ", ".join(one.summary.outside)))
    return Section(
        key="boundary",
        title=Text("Boundaries", "边界"),
        tables=(
            facts("boundary", Text("Boundary", "边界"), rows),
            Table(key="parts", title=Text("Nodes", "节点"), columns=columns, rows=tuple(parts)),
            Table(key="exclusions", title=Text("Exclusions", "排除项"), columns=exclusions, rows=tuple(excluded)),
        ),
    )


def _listed(some: Sequence[Text]) -> Text:
    return Text(", ".join(one.en for one in some) or "none", "、".join(one.zh for one in some) or "无")


def _completeness(total: Total) -> float | None:
    """Return the share of a total's lines that are whole."""
    if not total.lines:
        return None
    return 1 - len({*total.unknown, *total.incomplete}) / total.lines


def _tonnes(total: Total, why: str, trace: str = "") -> Quantity:
    marks = [*(["unknown_input"] if total.unknown else ()), *(["incomplete"] if total.incomplete else ())]
    return Quantity(
        value=None if total.kg_co2e is None else total.kg_co2e / KG_PER_T,
        completeness=_completeness(total),
        why=why,
        marks=tuple(marks),
        trace=trace,
    )


def _total_reason(one: Publication, reasons: Reasons) -> str:
    return reasons.add(
        "total",
        Text("sum of the known lines; completeness: share of lines that are whole", "已知各行之和;完整率为完整行占比"),
        source="ISO 14064-1:2018, 5, 6; GHG Protocol Corporate Standard",
        path=_statement_path(one),
        origins=[f"line {line.line_id}" for line in one.lines[:LINE_REASONS_MAX]],
    )


_TOTAL_COLUMNS = (
    Column(key="group", title=Text("group", "分组")),
    Column(key="emission_t", title=Text("emissions", "排放量"), kind=ColumnKind.FIGURE, unit=T_CO2E, digits=3),
    Column(key="lines", title=Text("lines", "行数"), kind=ColumnKind.COUNT),
    Column(key="unknown", title=Text("not known", "未知"), kind=ColumnKind.COUNT),
    Column(key="incomplete", title=Text("not whole", "不完整"), kind=ColumnKind.COUNT),
)


def _totals(one: Publication, reasons: Reasons) -> Section:
    why = _total_reason(one, reasons)

    def trace(total: Total) -> str:
        """Return what answers why a total is what it is; of parts of it nothing does."""
        for method, whole in (("location", one.location), ("market", one.market)):
            if total is whole:
                return traced("inventory", id=one.inventory_id, version=str(one.version), scope2=method)
        return ""

    def table(key: str, title: Text, groups: Sequence[tuple[Text, Total]]) -> Table:
        rows = tuple(
            (name, _tonnes(total, why, trace(total)), total.lines, len(total.unknown), len(total.incomplete))
            for name, total in groups
        )
        return Table(key=key, title=title, columns=_TOTAL_COLUMNS, rows=rows)

    summary = one.summary
    return Section(
        key="totals",
        title=Text("Emissions", "排放量"),
        tables=(
            table(
                "totals",
                Text("Totals", "合计"),
                [
                    (Text("total, location-based", "合计(基于位置)"), one.location),
                    (Text("total, market-based", "合计(基于市场)"), one.market),
                ],
            ),
            table(
                "scopes",
                Text("By scope of the GHG Protocol", "按 GHG Protocol 范围"),
                [(words.SCOPES.get(name, Text(name, name)), total) for name, total in sorted(summary.by_scope.items())],
            ),
            table(
                "iso",
                Text("By category of ISO 14064-1 (location-based)", "按 ISO 14064-1 类别(基于位置)"),
                [(words.ISO_CATEGORIES[name], total) for name, total in sorted(summary.by_iso_category.items())],
            ),
            table(
                "gb",
                Text("By group of GB/T 32150 (location-based)", "按 GB/T 32150 分组(基于位置)"),
                [
                    (words.GB_GROUPS.get(name, Text(name, name)), total)
                    for name, total in sorted(summary.by_gb_group.items())
                ],
            ),
        ),
    )


def _gases(one: Publication, reasons: Reasons) -> Section:
    why = _total_reason(one, reasons)
    gases = sorted(one.summary.by_gas)
    direct: dict[str, float] = dict.fromkeys(gases, 0.0)
    for line in one.lines:
        if CATEGORIES[line.category].scope is Scope.DIRECT:
            for gas, kg in line.by_gas.items():
                direct[gas] = direct.get(gas, 0.0) + (kg or 0.0)
    complete = _completeness(one.location)
    rows: list[tuple[Cell, ...]] = [
        (
            gas,
            Quantity(value=one.summary.by_gas[gas] / KG_PER_T, completeness=complete, why=why),
            Quantity(value=direct[gas] / KG_PER_T, completeness=complete, why=why),
        )
        for gas in gases
    ]
    columns = (
        Column(key="gas", title=Text("gas", "气体")),
        Column(key="emission_t", title=Text("all", "全部"), kind=ColumnKind.FIGURE, unit=T_CO2E, digits=3),
        Column(key="direct_t", title=Text("direct", "直接排放"), kind=ColumnKind.FIGURE, unit=T_CO2E, digits=3),
    )
    memo = tuple(
        (name, _tonnes(total, why), total.lines, len(total.unknown), len(total.incomplete))
        for name, total in (
            (Text("biogenic CO2 (tCO2)", "生物源 CO2(tCO2)"), one.summary.biogenic),
            (Text("gases of the Montreal Protocol", "《蒙特利尔议定书》管控气体"), one.summary.memo_montreal),
        )
    )
    return Section(
        key="gases",
        title=Text("By gas", "分气体"),
        paragraphs=(
            Text(
                "A gas that is not listed was not quantified or does not occur. What stands apart is in no total.",
                "未列出的气体未量化或不存在。单列项不计入合计。",
            ),
        ),
        tables=(
            Table(key="gases", title=Text("Gases", "气体"), columns=columns, rows=tuple(rows)),
            Table(key="apart", title=Text("Told apart", "单列项"), columns=_TOTAL_COLUMNS, rows=memo),
        ),
    )


def _electricity(one: Publication, reasons: Reasons) -> Section:
    summary = one.summary
    why = _total_reason(one, reasons)
    bought = [line for line in one.lines if line.category == "electricity"]
    known = [line for line in bought if line.location.value is not None]
    complete = len(known) / len(bought) if bought else None
    rows = (
        (
            Text("imported electricity", "外购电量"),
            Quantity(value=summary.imported_kwh, completeness=complete, why=why),
            "kWh",
        ),
        (
            Text("covered by certificates", "绿证等覆盖电量"),
            Quantity(value=summary.covered_kwh, completeness=complete, why=why),
            "kWh",
        ),
        (
            Text("covered share", "覆盖比例"),
            Quantity(value=summary.coverage, completeness=complete, why=why),
            "1",
        ),
        (
            Text("comprehensive energy consumption (GB/T 2589)", "综合能耗(GB/T 2589)"),
            _figure(summary.standard_coal, reasons, "standard_coal", _statement_path(one), None),
            summary.standard_coal.unit,
        ),
    )
    certificates: list[tuple[Cell, ...]] = [
        (
            each.number,
            each.kind.value,
            each.vintage,
            Quantity(value=each.kwh, completeness=None, why=why),
            each.technology,
            each.beneficiary,
            each.evidence,
        )
        for each in one.inputs.certificates
    ]
    columns = (
        Column(key="number", title=Text("number", "编号")),
        Column(key="kind", title=Text("instrument", "凭证类型")),
        Column(key="vintage", title=Text("year", "年份"), kind=ColumnKind.COUNT),
        Column(key="kwh", title=Text("volume", "电量"), kind=ColumnKind.FIGURE, unit="kWh"),
        Column(key="technology", title=Text("technology", "电源类型")),
        Column(key="beneficiary", title=Text("beneficiary", "受益人")),
        Column(key="evidence", title=Text("evidence", "凭据")),
    )
    return Section(
        key="electricity",
        title=Text("Purchased electricity", "外购电力"),
        tables=(
            key_figures("electricity", Text("Electricity", "电力"), rows),
            Table(
                key="certificates", title=Text("Certificates", "绿证"), columns=columns, rows=tuple(certificates)
            ),
        ),
    )  # fmt: skip


def _figure(
    one: FrozenFigure,
    reasons: Reasons,
    key: str,
    told_at: str,
    completeness: float | None,
    *,
    per: float = 1.0,
    trace: str = "",
) -> Quantity:
    """Return a published figure with its own formula and inputs as its reason."""
    why = reasons.add(
        key,
        Text(one.formula, one.formula),
        source=one.source,
        path=told_at,
        origins=[
            f"{each.name} = {'?' if each.value is None else f'{each.value:.10g}'} {each.unit} ({each.origin})"
            for each in one.inputs
        ],
    )
    return Quantity(
        value=None if one.value is None else one.value / per,
        completeness=completeness,
        why=why,
        marks=tuple(each.value for each in one.marks),
        trace=trace,
    )


def _lines(one: Publication, names: Mapping[str, str], reasons: Reasons) -> Section:
    sources = {source.line_id: source for source in one.inputs.sources}
    rows: list[tuple[Cell, ...]] = []
    for line in one.lines[:LINES_MAX]:
        source = sources.get(line.line_id) or sources.get(line.line_id.split("/")[0])
        rows.append(_line(one, line, source, names, reasons))
    columns = (
        Column(key="line", title=Text("line", "行")),
        Column(key="category", title=Text("category", "类别")),
        Column(key="node", title=Text("node", "节点")),
        Column(key="origin", title=Text("source of the data", "数据来源")),
        Column(key="share", title=Text("share", "比例"), kind=ColumnKind.TEXT),
        Column(
            key="location_t",
            title=Text("location-based", "基于位置"),
            kind=ColumnKind.FIGURE,
            unit=T_CO2E,
            digits=3,
        ),
        Column(
            key="market_t", title=Text("market-based", "基于市场"), kind=ColumnKind.FIGURE, unit=T_CO2E, digits=3
        ),
        Column(key="estimated", title=Text("estimated", "估算占比")),
    )  # fmt: skip
    left = len(one.lines) - len(rows)
    more = Text(f"{left} more lines stand in the filed inventory.", f"其余 {left} 行见已存档的清单。")
    table = Table(key="lines", title=Text("Lines", "排放源明细"), columns=columns, rows=tuple(rows))
    return Section(
        key="lines",
        title=Text("Activity data and emissions", "活动数据与排放"),
        paragraphs=(more,) if left else (),
        tables=(table,),
    )


def _line(
    one: Publication, line: Frozen, source: Source | None, names: Mapping[str, str], reasons: Reasons
) -> tuple[Cell, ...]:
    told_at = f"{_statement_path(one)}#{line.line_id}"
    complete = None if source is None else source.completeness
    same = line.location == line.market
    asked = {"id": one.inventory_id, "version": str(one.version), "line": line.line_id}
    by_location, by_market = (traced("inventory_line", **asked, scope2=each) for each in ("location", "market"))
    why = f"line {line.line_id}"
    location = _figure(line.location, reasons, why, told_at, complete, per=KG_PER_T, trace=by_location)
    return (
        line.line_id,
        words.CATEGORIES[line.category],
        "" if source is None else names.get(source.node, source.node),
        "" if source is None else source.origin,
        f"{line.share:.4g}",
        location,
        location
        if same
        else _figure(line.market, reasons, f"{why} (market)", told_at, complete, per=KG_PER_T, trace=by_market),
        "" if source is None else f"{source.estimated_share:.1%}",
    )


def _used(one: Publication, reasons: Reasons) -> Section:
    why = reasons.add(
        "factors",
        Text("as the library had it on that day", "以当日因子库为准"),
        source="carbon README, How an emission comes about",
        path=path("factors", known_on=one.known_on.isoformat()),
        origins=[f"table {one.table_digest}"],
    )
    rows: list[tuple[Cell, ...]] = [
        (
            row.factor_id,
            row.revision,
            row.data_year,
            Quantity(value=float(row.value), completeness=None, why=why),
            row.unit,
            row.confidence,
            row.source,
        )
        for row in one.used
    ]
    columns = (
        Column(key="factor_id", title=Text("factor", "因子编号")),
        Column(key="revision", title=Text("revision", "修订"), kind=ColumnKind.COUNT),
        Column(key="data_year", title=Text("year", "年度"), kind=ColumnKind.COUNT),
        Column(key="value", title=Text("value", "数值"), kind=ColumnKind.FIGURE, digits=6),
        Column(key="unit", title=Text("unit", "单位")),
        Column(key="confidence", title=Text("confidence", "可信度")),
        Column(key="source", title=Text("source", "来源")),
    )
    gwp = _GWP.get(one.inputs.gwp_set, Text(one.inputs.gwp_set.value, one.inputs.gwp_set.value))
    enabled: list[tuple[Text, Text | str]] = [
        (Text(f"enabled: {each.factor_id}", f"启用:{each.factor_id}"), f"{each.by}: {each.reason}")
        for each in one.inputs.enabled
    ]
    return Section(
        key="factors",
        title=Text("Factors and warming potentials", "因子与全球变暖潜势"),
        tables=(
            Table(key="factors", title=Text("Factors", "因子"), columns=columns, rows=tuple(rows)),
            facts(
                "gwp",
                Text("Global warming potentials", "全球变暖潜势"),
                [(Text("values", "取值"), gwp), *enabled],
            ),
        ),
    )  # fmt: skip


def _uncertainty(one: Publication, reasons: Reasons) -> Section:
    sureness = one.summary.sureness
    why = reasons.add(
        "uncertainty",
        Text("u = √(Σ(E·u)²) / |ΣE|, lines of one factor grouped; beyond 30 % a simulation",
             "u = √(Σ(E·u)²) / |ΣE|,同一因子的行先合并;超过 30 % 时采用模拟"),
        source="GHG Protocol guidance on uncertainty; IPCC 2006 vol. 1, 3",
        path=_statement_path(one),
        origins=[] if sureness.simulation is None else [f"seed {sureness.simulation.seed}"],
    )  # fmt: skip
    complete = sureness.covered_share
    rows = [
        (
            Text("half-width at 95 %, relative", "相对半宽(95 %)"),
            Quantity(value=sureness.relative, completeness=complete, why=why),
            "1",
        )
    ]
    if sureness.simulation is not None:
        for name, kg in (
            (Text("2.5th percentile", "2.5 百分位"), sureness.simulation.low),
            (Text("97.5th percentile", "97.5 百分位"), sureness.simulation.high),
        ):
            rows.append((name, Quantity(value=kg / KG_PER_T, completeness=complete, why=why), T_CO2E))
    grade = words.UNKNOWN if sureness.grade is None else words.GRADES[sureness.grade.value]
    return Section(
        key="uncertainty",
        title=Text("Uncertainty", "不确定性"),
        paragraphs=(
            Text(
                f"Grade: {grade.en}. Completeness is the share of the total whose uncertainty is known.",
                f"等级:{grade.zh}。完整率为已知不确定度的部分在合计中的占比。",
            ),
        ),
        tables=(key_figures("uncertainty", Text("Uncertainty of the total", "合计的不确定性"), rows),),
    )


def _attestation(one: Publication, digest: str) -> Section:
    rows: list[tuple[Text, Text | str]] = [
        (Text("SHA-256 of the filed inventory", "已存档清单的 SHA-256"), digest),
        (Text("SHA-256 of the factors used", "所用因子的 SHA-256"), one.used_digest),
        (Text("SHA-256 of the factor library", "因子库的 SHA-256"), one.table_digest),
        (
            Text("proof of inclusion", "包含证明"),
            path("attestations/inclusion", subject=f"report:inventory/{one.inventory_id}", version=str(one.version)),
        ),
        (Text("software", "软件版本"), one.software),
    ]
    return Section(
        key="attestation",
        title=Text("Attestation", "存证"),
        paragraphs=(
            Text(
                "The log shows when this was filed and that it has not changed since. It does not show that a meter "
                "was right or that nothing was left out.",
                "存证日志表明本清单何时存档且此后未被更改,但不能证明电表准确或数据无遗漏。",
            ),
        ),
        tables=(facts("attestation", Text("Digests", "摘要"), rows),),
    )


def _required() -> Section:
    rows: list[tuple[Cell, ...]] = [(one.item, one.clauses, one.section) for one in REQUIRED]
    columns = (
        Column(key="item", title=Text("required", "应报告内容")),
        Column(key="clauses", title=Text("clause", "条款")),
        Column(key="section", title=Text("section", "章节")),
    )
    table = Table(key="required", title=Text("Where it stands", "内容索引"), columns=columns, rows=tuple(rows))
    return Section(key="required", title=Text("Contents by clause", "条款对照"), tables=(table,))
