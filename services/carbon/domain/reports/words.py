"""The words of reports in both languages: marks of figures, bands, categories, gases, bases."""

from services.carbon.domain.reports.content import ReportKind, Text

TITLES = {
    ReportKind.ENERGY_DAILY: Text("Daily energy report", "能耗日报"),
    ReportKind.ENERGY_WEEKLY: Text("Weekly energy report", "能耗周报"),
    ReportKind.ENERGY_MONTHLY: Text("Monthly energy report", "能耗月报"),
    ReportKind.ENERGY_YEARLY: Text("Yearly energy report", "能耗年报"),
    ReportKind.INVENTORY: Text("Greenhouse gas inventory report", "温室气体排放报告"),
    ReportKind.SAVINGS: Text("Report of savings by shutdown", "关断节能报告"),
    ReportKind.CONTRACT_STATEMENT: Text("Energy performance contract statement", "合同能源管理节能量结算单"),
}

MARKS: dict[str, Text] = {
    # of figures (domain/figures.py)
    "provisional_factor": Text("factor of an earlier year, provisional", "采用以前年度因子,暂定"),
    "wider_area": Text("factor of a wider area", "采用更大区域的因子"),
    "average_for_residual": Text("average in place of a residual factor", "以平均因子代替剩余因子"),
    "enabled_by_person": Text("doubtful factor, enabled by a person", "存疑因子,由人员启用"),
    "no_factor": Text("no factor", "无可用因子"),
    "unknown_input": Text("an input is unknown", "输入数据未知"),
    "estimate": Text("estimate", "估算"),
    "incomplete": Text("a part is not known", "部分数据缺失"),
    "running": Text("the period is not over", "周期未结束"),
    "apportioned": Text("in proportion to time", "按时间分摊"),
    "montreal_gas": Text("gas of the Montreal Protocol, in no total", "《蒙特利尔议定书》管控气体,不计入合计"),
    "methane_and_nitrous_oxide_not_quantified": Text("CH4 and N2O not quantified", "未量化 CH4 与 N2O"),
    "surplus_certificates": Text("more certificates than consumption", "绿证超出用电量"),
    "outside_boundary": Text("outside the boundary", "在边界之外"),
    "converted_inside": Text("converted inside the boundary", "边界内转换"),
    # of energy (domain/levels)
    "estimated": Text("partly estimated", "部分估算"),
    "from_parts": Text("partly the sum of the next level", "部分由下级计量求和代替"),
    "lower_bound": Text("at least: a register was reset", "下限:表底曾清零"),
    "uncertain": Text("a register behind it was flagged", "表底数据存疑"),
    "unknown_price": Text("a price, tariff or account is missing", "缺少电价、电价方案或用电户号"),
    "part_priced": Text("of the part whose price is known", "仅含已知电价部分"),
    # of savings (domain/savings)
    "not_publishable": Text("not sure enough to be called a saving", "不确定度过大,不得称为节约量"),
    "window_incomplete": Text("intervals of the window are missing", "时段内数据缺失"),
    "no_baseline": Text("no baseline", "无可用基线"),
    "few_clean_days": Text("few clean days", "有效基线日较少"),
    "short_post": Text("little time after the wake-up", "恢复后观察期较短"),
    "temperature_unknown": Text("not adjusted to the weather", "未做气温修正"),
    "shared_meter": Text("several loads behind the meter", "同一电表下有多个负载"),
    "model_not_accepted": Text("model not accepted", "基线模型不合格"),
    "coverage": Text("too few known days", "有效天数不足"),
    "uncertainty": Text("uncertainty too large", "不确定度过大"),
    "not_positive": Text("no saving", "无节约量"),
    "uncertainty_unknown": Text("uncertainty unknown", "不确定度未知"),
    "deviates": Text("the receivers disagree", "双发数据不一致"),
    "missing": Text("the other receiver has said nothing", "对方未提供数据"),
    "accepted": Text("a difference was accepted by both parties", "双方已确认差异"),
}

BANDS: dict[str, Text] = {
    "sharp": Text("sharp", "尖"),
    "peak": Text("peak", "峰"),
    "flat": Text("flat", "平"),
    "valley": Text("valley", "谷"),
    "deep_valley": Text("deep valley", "深谷"),
}
NO_BAND = Text("no tariff in force", "无有效电价方案")

CATEGORIES: dict[str, Text] = {
    "stationary_combustion": Text("stationary combustion", "固定源燃烧"),
    "mobile_combustion": Text("mobile combustion", "移动源燃烧"),
    "fugitive": Text("fugitive emissions", "逸散排放"),
    "process": Text("process emissions", "过程排放"),
    "electricity": Text("purchased electricity", "外购电力"),
    "heat": Text("purchased heat", "外购热力"),
    "steam": Text("purchased steam", "外购蒸汽"),
    "cold": Text("purchased cold", "外购冷量"),
    "purchased_goods_and_services": Text("purchased goods and services", "外购商品和服务"),
    "capital_goods": Text("capital goods", "资本货物"),
    "fuel_and_energy_related": Text("fuel- and energy-related activities", "燃料和能源相关活动"),
    "upstream_transport": Text("upstream transport", "上游运输"),
    "waste": Text("waste", "废弃物"),
    "business_travel": Text("business travel", "差旅"),
    "commuting": Text("commuting", "员工通勤"),
    "upstream_leased_assets": Text("upstream leased assets", "上游租赁资产"),
    "downstream_transport": Text("downstream transport", "下游运输"),
    "processing_of_sold_products": Text("processing of sold products", "售出产品加工"),
    "use_of_sold_products": Text("use of sold products", "售出产品使用"),
    "end_of_life_of_sold_products": Text("end of life of sold products", "售出产品报废处理"),
    "downstream_leased_assets": Text("downstream leased assets", "下游租赁资产"),
    "franchises": Text("franchises", "特许经营"),
    "investments": Text("investments", "投资"),
    "other": Text("other", "其他"),
}

SCOPES: dict[str, Text] = {
    "1": Text("scope 1", "范围一"),
    "2_location": Text("scope 2, location-based", "范围二(基于位置)"),
    "2_market": Text("scope 2, market-based", "范围二(基于市场)"),
    "3": Text("scope 3", "范围三"),
}
ISO_CATEGORIES: dict[int, Text] = {
    1: Text("1 direct emissions", "类别 1 直接排放"),
    2: Text("2 imported energy", "类别 2 输入能源"),
    3: Text("3 transport", "类别 3 运输"),
    4: Text("4 products used", "类别 4 使用的产品"),
    5: Text("5 use of products", "类别 5 产品的使用"),
    6: Text("6 other", "类别 6 其他"),
}
GB_GROUPS: dict[str, Text] = {
    "fuel_combustion": Text("fuel combustion", "燃料燃烧排放"),
    "process": Text("process", "过程排放"),
    "purchased_electricity_and_heat": Text("purchased electricity and heat", "购入电力、热力产生的排放"),
    "outside": Text("not covered by GB/T 32150", "GB/T 32150 未涵盖"),
}
GRADES: dict[str, Text] = {
    "high": Text("high", "高"),
    "good": Text("good", "良好"),
    "fair": Text("fair", "一般"),
    "poor": Text("poor", "差"),
}
APPROACHES: dict[str, Text] = {
    "operational_control": Text("operational control", "运营控制权"),
    "financial_control": Text("financial control", "财务控制权"),
    "equity_share": Text("equity share", "股权比例"),
}
METHODS: dict[str, Text] = {
    "clean_days": Text("clean days before", "有效基线日"),
    "control_group": Text("control group", "对照组"),
    "regression": Text("regression", "回归"),
    "comparison": Text("comparison", "对比"),
    "shutdown": Text("measured shutdowns", "实测关断时段"),
}
PARTIES: dict[str, Text] = {
    "customer": Text("customer", "用能方"),
    "company": Text("energy-service company", "节能服务方"),
}
STATES: dict[str, Text] = {
    "draft": Text("draft", "草稿"),
    "offered": Text("offered", "待签署"),
    "signed_by_one": Text("signed by one party", "一方已签"),
    "frozen": Text("signed by both parties", "双方已签"),
    "withdrawn": Text("withdrawn", "已撤回"),
}

NOT_STATED = Text("not stated", "未说明")
UNKNOWN = Text("unknown", "未知")


def mark(key: str) -> Text:
    """Return a mark in words; a key without words stands for itself, so that no remark is ever lost."""
    return MARKS.get(key, Text(key, key))
