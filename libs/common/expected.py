"""What a model expected where it refused a value, in the words of people and in both languages.

Models say it in the English of their library, by error type and facts. What a model of ours says itself is raised as
``WrongValue`` and comes out as it was written.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from libs.common.errors import WrongValue

Facts = Mapping[str, Any]

_PLAIN: Mapping[str, tuple[str, str]] = {
    "missing": ("a value, the field is required", "一个值(必填)"),
    "extra_forbidden": ("nothing, there is no such field", "空(没有这个字段)"),
    "none_required": ("nothing", "空"),
    "string_type": ("text", "文本"),
    "string_unicode": ("text in UTF-8", "UTF-8 文本"),
    "bool_type": ("true or false", "true 或 false"),
    "bool_parsing": ("true or false", "true 或 false"),
    "int_type": ("a whole number", "整数"),
    "int_parsing": ("a whole number", "整数"),
    "int_parsing_size": ("a whole number of a usual size", "大小合理的整数"),
    "int_from_float": ("a whole number", "整数"),
    "float_type": ("a number", "数字"),
    "float_parsing": ("a number", "数字"),
    "finite_number": ("a finite number", "有限数值"),
    "list_type": ("a list", "列表"),
    "tuple_type": ("a list", "列表"),
    "set_type": ("a list", "列表"),
    "frozen_set_type": ("a list", "列表"),
    "dict_type": ("fields and their values", "字段及其取值"),
    "mapping_type": ("fields and their values", "字段及其取值"),
    "model_type": ("fields and their values", "字段及其取值"),
    "model_attributes_type": ("fields and their values", "字段及其取值"),
    "json_invalid": ("JSON", "JSON"),
    "json_type": ("JSON", "JSON"),
    "timezone_aware": ("a time with an offset", "带时区偏移的时间"),
    "datetime_type": ("a time in RFC 3339", "RFC 3339 时间"),
    "datetime_parsing": ("a time in RFC 3339", "RFC 3339 时间"),
    "datetime_from_date_parsing": ("a time in RFC 3339", "RFC 3339 时间"),
    "datetime_object_invalid": ("a time in RFC 3339", "RFC 3339 时间"),
    "date_type": ("a date such as 2026-01-31", "日期,如 2026-01-31"),
    "date_parsing": ("a date such as 2026-01-31", "日期,如 2026-01-31"),
    "date_from_datetime_parsing": ("a date such as 2026-01-31", "日期,如 2026-01-31"),
    "date_from_datetime_inexact": ("a date such as 2026-01-31", "日期,如 2026-01-31"),
    "time_type": ("a time of day such as 23:59:59", "时刻,如 23:59:59"),
    "ip_any_address": ("an IP address", "IP 地址"),
    "ip_any_network": ("a network such as 10.1.0.0/16", "网段,如 10.1.0.0/16"),
    "time_parsing": ("a time of day such as 23:59:59", "时刻,如 23:59:59"),
}

_WITH_FACTS: Mapping[str, Callable[[Facts], tuple[str, str]]] = {
    "greater_than": lambda it: (f"greater than {_n(it['gt'])}", f"大于 {_n(it['gt'])}"),
    "greater_than_equal": lambda it: (f"greater than or equal to {_n(it['ge'])}", f"不小于 {_n(it['ge'])}"),
    "less_than": lambda it: (f"less than {_n(it['lt'])}", f"小于 {_n(it['lt'])}"),
    "less_than_equal": lambda it: (f"less than or equal to {_n(it['le'])}", f"不大于 {_n(it['le'])}"),
    "multiple_of": lambda it: (f"a multiple of {_n(it['multiple_of'])}", f"{_n(it['multiple_of'])} 的倍数"),
    "string_too_short": lambda it: (_at_least(it, "characters"), f"至少 {it['min_length']} 个字符"),
    "string_too_long": lambda it: (f"at most {it['max_length']} characters", f"最多 {it['max_length']} 个字符"),
    "string_pattern_mismatch": lambda it: (f"text that matches {it['pattern']}", f"符合 {it['pattern']} 的文本"),
    "too_short": lambda it: (_at_least(it, "items"), f"至少 {it['min_length']} 项"),
    "too_long": lambda it: (f"at most {it['max_length']} items", f"最多 {it['max_length']} 项"),
    "enum": lambda it: (str(it["expected"]), _or_zh(it["expected"])),
    "literal_error": lambda it: (str(it["expected"]), _or_zh(it["expected"])),
}


def expected(error: ErrorDetails) -> tuple[str, str]:
    """Return what a model expected, in English and Chinese, as it reads after "expected"."""
    kind, facts = error["type"], error.get("ctx", {})
    if kind == "value_error" and isinstance(wrong := facts.get("error"), ValueError):
        return str(wrong), wrong.message_zh if isinstance(wrong, WrongValue) else str(wrong)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _WITH_FACTS:
        return _WITH_FACTS[kind](facts)
    text = error["msg"].removeprefix("Input should be ")
    return text, text


def _n(number: float) -> str:
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _at_least(facts: Facts, what: str) -> str:
    least = facts["min_length"]
    return f"at least {least} {what.removesuffix('s') if least == 1 else what}"


def _or_zh(choices: object) -> str:
    return str(choices).replace(" or ", " 或 ")
