"""A statement of an energy performance contract as a report: what both parties sign, and their signatures.

What is printed is the stored content, whose digest both parties have signed; nothing is computed again. The figures
of a draft are printed as those of a draft.
"""

from services.carbon.domain.epc.contract import Contract
from services.carbon.domain.epc.metering import Agreement, Party, metered_kwh
from services.carbon.domain.epc.statement import FEN_PER_CNY, Content, Statement
from services.carbon.domain.reports import words
from services.carbon.domain.reports.building import Reasons, civil, facts, key_figures, path, traced
from services.carbon.domain.reports.content import Cell, Column, ColumnKind, Quantity, Reason, Section, Table, Text

KWH = "kWh"


def contract_content(one: Statement, contract: Contract) -> tuple[tuple[Section, ...], tuple[Reason, ...]]:
    """Return the chapters of a statement, and its reasons."""
    reasons = Reasons()
    content = one.content
    told_at = path(f"savings/statements/{content.statement_id}")
    saved = reasons.add(
        "saving",
        Text("prediction of the baseline - measured + adjustments", "基线预测 - 实测 + 调整"),
        source="carbon README, How a statement of an energy performance contract comes about",
        path=told_at,
        origins=[
            f"adjustment {each.energy_kwh:.6g} kWh: {each.reason} ({each.author}, {each.evidence})"
            for each in content.saving.adjustments
        ],
    )
    sections = (
        _parties(one, contract),
        _saving(content, saved),
        _registers(content, reasons, told_at),
        _money(content, reasons, told_at),
        _reconciliation(content, reasons, told_at),
        _signatures(one, contract),
    )
    return sections, reasons.all()


def _parties(one: Statement, contract: Contract) -> Section:
    content = one.content
    rows: list[tuple[Text, Text | str]] = [
        (Text("contract", "合同"), Text(f"{contract.name} ({contract.contract_id} v{content.contract_version})",
                                        f"{contract.name_zh}({contract.contract_id} v{content.contract_version})")),
        *((words.PARTIES[party.value], contract.names.get(party, "")) for party in Party),
        (Text("period", "结算期"), f"{content.start.isoformat()} – {content.end.isoformat()}"),
        (Text("statement, version", "结算单、版本"), f"{content.statement_id} v{content.version}"),
        (Text("state", "状态"), words.STATES[one.state.value]),
        (Text("method", "方法"), words.METHODS[content.saving.basis.value]),
        (Text("agreed prices", "约定电价"), f"{content.tariff_id} v{content.tariff_version}"),
        (Text("corrects", "更正"), content.supersedes or Text("none", "无")),
    ]  # fmt: skip
    return Section(
        key="parties", title=Text("Parties and period", "双方与结算期"), tables=(facts("parties", _PARTIES, rows),)
    )


_PARTIES = Text("Parties", "双方")


def _saving(content: Content, why: str) -> Section:
    saving = content.saving
    complete = saving.completeness
    marks = tuple(sorted(each.value for each in saving.doubts))
    rows = [
        (Text("baseline", "基线电量"), Quantity(value=saving.baseline_kwh, completeness=complete, why=why), KWH),
        (Text("measured", "实测电量"), Quantity(value=saving.actual_kwh, completeness=complete, why=why), KWH),
        (
            Text("saved", "节约电量"),
            Quantity(
                value=saving.saving_kwh,
                completeness=complete,
                why=why,
                marks=marks,
                trace=traced("statement_saving", id=content.statement_id),
            ),
            KWH,
        ),
        (
            Text("uncertainty (half-width at 68 %, share of the saving)", "不确定度(68 % 半宽占节约量)"),
            Quantity(value=saving.fractional_uncertainty, completeness=complete, why=why),
            "1",
        ),
    ]
    told = Text(
        f"{saving.days_known} of {saving.days} days (of shutdowns: windows) are known.",
        f"{saving.days} 天(关断按时段)中 {saving.days_known} 天已知。",
    )
    table = key_figures("saving", Text("Measured saving", "实测节约量"), rows)
    return Section(key="saving", title=Text("Saving", "节约量"), paragraphs=(told,), tables=(table,))


def _registers(content: Content, reasons: Reasons, told_at: str) -> Section:
    why = reasons.add(
        "registers",
        Text("(end - start) × ratio, with at most one rollover", "(止码 - 起码)× 倍率,至多一次翻转"),
        source="carbon README, How a statement of an energy performance contract comes about",
        path=told_at,
        origins=[f"meter {one.device_id} of circuit {one.circuit_id}" for one in content.registers],
    )
    rows: list[tuple[Cell, ...]] = [
        (
            one.device_id,
            civil(one.start_at),
            Quantity(value=one.start_kwh, completeness=None, why=why),
            civil(one.end_at),
            Quantity(value=one.end_kwh, completeness=None, why=why),
            Quantity(value=one.ratio, completeness=None, why=why),
            Quantity(
                value=one.energy_kwh,
                completeness=None,
                why=why,
                trace=traced("statement_meter", id=content.statement_id, line=one.device_id),
            ),
        )
        for one in content.registers
    ]
    columns = (
        Column(key="meter", title=Text("meter", "电表")),
        Column(key="start_at", title=Text("start", "起始时刻"), kind=ColumnKind.TIME),
        Column(key="start_kwh", title=Text("register", "起码"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="end_at", title=Text("end", "终止时刻"), kind=ColumnKind.TIME),
        Column(key="end_kwh", title=Text("register", "止码"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="ratio", title=Text("ratio", "倍率"), kind=ColumnKind.FIGURE, digits=0),
        Column(key="energy_kwh", title=Text("energy", "电量"), kind=ColumnKind.FIGURE, unit=KWH),
    )
    whole = f"{metered_kwh(content.registers):,.2f} kWh"
    told = Text(f"Together the meters counted {whole}.", f"各表合计 {whole}。")
    table = Table(key="registers", title=Text("Registers", "表码"), columns=columns, rows=tuple(rows))
    return Section(key="registers", title=Text("Meters", "计量"), paragraphs=(told,), tables=(table,))


def _money(content: Content, reasons: Reasons, told_at: str) -> Section:
    why = reasons.add(
        "money",
        Text("energy of the band × agreed price, rounded to the fen as a whole", "时段电量 × 约定电价,合计取整到分"),
        source=f"{content.contract_id} v{content.contract_version}, {content.tariff_id} v{content.tariff_version}",
        path=told_at,
    )
    complete = content.saving.completeness
    rows: list[tuple[Cell, ...]] = [
        (
            words.BANDS.get(one.band, Text(one.band, one.band)),
            Quantity(value=one.energy_kwh, completeness=complete, why=why),
            Quantity(value=float(one.price_cny_per_kwh), completeness=None, why=why),
            Quantity(
                value=float(one.money_cny),
                completeness=complete,
                why=why,
                trace=traced("statement_line", id=content.statement_id, line=str(number)),
            ),
        )
        for number, one in enumerate(content.lines)
    ]
    columns = (
        Column(key="band", title=Text("band", "时段")),
        Column(key="energy_kwh", title=Text("saved", "节约电量"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="price", title=Text("price", "电价"), kind=ColumnKind.FIGURE, unit="CNY/kWh", digits=6),
        Column(key="money_cny", title=Text("money, unrounded", "金额(未取整)"), kind=ColumnKind.FIGURE, unit="CNY"),
    )
    shares: list[tuple[Text, Quantity, str]] = [
        (
            Text("saved money", "节约金额"),
            Quantity(
                value=content.money_fen / FEN_PER_CNY,
                completeness=complete,
                why=why,
                trace=traced("statement", id=content.statement_id),
            ),
            "CNY",
        )
    ]
    for party, fen in content.shares_fen.items():
        name = words.PARTIES[party.value]
        shares.append(
            (
                Text(f"share of the {name.en}", f"{name.zh}分享"),
                Quantity(value=fen / FEN_PER_CNY, completeness=complete, why=why),
                "CNY",
            )
        )
    return Section(
        key="money",
        title=Text("Money and shares", "金额与分享"),
        tables=(
            Table(key="bands", title=Text("By band", "按时段"), columns=columns, rows=tuple(rows)),
            key_figures("shares", Text("Shares", "分享"), shares),
        ),
    )


def _reconciliation(content: Content, reasons: Reasons, told_at: str) -> Section:
    why = reasons.add(
        "reconciliation",
        Text("both receivers of a meter agree within 1 %", "同一电表双方数据相差不超过 1 %"),
        source=f"contract {content.contract_id}",
        path=told_at,
    )
    rows: list[tuple[Cell, ...]] = []
    for one in content.reconciliation:
        mark = () if one.agreement is Agreement.AGREED else (one.agreement.value,)
        rows.append(
            (
                one.device_id,
                Quantity(value=one.ours_kwh, completeness=None, why=why),
                Quantity(value=one.theirs_kwh, completeness=None, why=why, marks=mark),
                Quantity(value=one.difference_kwh, completeness=None, why=why),
                one.theirs_source or None,
                one.reason or None,
                ", ".join(person for _, person in one.accepted_by) or None,
            )
        )
    columns = (
        Column(key="meter", title=Text("meter", "电表")),
        Column(key="ours_kwh", title=Text("ours", "本方"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="theirs_kwh", title=Text("other receiver", "对方"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="difference_kwh", title=Text("difference", "差值"), kind=ColumnKind.FIGURE, unit=KWH),
        Column(key="source", title=Text("source", "来源")),
        Column(key="reason", title=Text("reason", "理由")),
        Column(key="accepted_by", title=Text("accepted by", "确认人")),
    )
    table = Table(key="reconciliation", title=Text("Two receivers", "双发对账"), columns=columns, rows=tuple(rows))
    return Section(key="reconciliation", title=Text("Reconciliation", "双发对账"), tables=(table,))


def _signatures(one: Statement, contract: Contract) -> Section:
    rows: list[tuple[Text, Text | str]] = [(Text("SHA-256 of the content", "内容 SHA-256"), one.content.digest)]
    by_party = {each.party: each for each in one.signatures}
    for party in Party:
        signature = by_party.get(party)
        name = words.PARTIES[party.value]
        rows.append(
            (
                Text(f"signed for the {name.en} ({contract.names.get(party, '')})",
                     f"{name.zh}签署({contract.names.get(party, '')})"),
                Text("not signed", "未签署")
                if signature is None
                else f"{signature.person}, {civil(signature.signed_at)}, {signature.digest}",
            )
        )  # fmt: skip
    if one.withdrawn_reason:
        rows.append((Text("withdrawn", "撤回"), one.withdrawn_reason))
    return Section(
        key="signatures",
        title=Text("Signatures", "签署"),
        tables=(facts("signatures", Text("Signatures", "签署"), rows),),
    )
