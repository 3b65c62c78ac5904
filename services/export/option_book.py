"""Option templates as a file: ``StdSPConfigOptionDic.xml`` as the notes on dialect Y have it (annex E.3).

Root ``StdSPConfigOptionDic`` @Name @Version, below it device types with signals (@SPID), each with options (@OptionID,
@AlarmLevel, @AlarmThreshold, @StartDelay, @EndDelay, @Period, @AbsoluteVal, @RelativeVal, @Hysteresis). A signal may
stand under several types; its templates must then be the same, since a message names the signal only.
"""

import math

from libs.common.errors import InvalidFile, Problem
from services.export.dialects import Dialect
from services.export.dialects import xmlsafe as xml
from services.export.domain.options import Option, OptionBook

MAX_BYTES = 4 << 20
"""Of the file; a signal with ten options has about 1.5 kB. [B]"""
MAX_OPTIONS = 20_000
ID_LENGTH = 20

_NUMBERS = {
    "AlarmThreshold": "threshold",
    "StartDelay": "start_delay_s",
    "EndDelay": "end_delay_s",
    "Hysteresis": "hysteresis",
    "Period": "period_s",
    "AbsoluteVal": "absolute",
    "RelativeVal": "relative",
}


def read_option_book(body: bytes, source: str, dialect: Dialect, *, ignores_storage: bool) -> OptionBook:
    """Return the templates of a file.

    Raises:
        MalformedXml: It is no XML that we take.
        InvalidFile: It is no such file; every wrong place is listed, with its line.
    """
    root = xml.parse_bytes(body, limit=MAX_BYTES)
    reader = _Reader(dialect)
    if not xml.same(xml.local(root), "StdSPConfigOptionDic"):
        reader.wrong(root, "root", "StdSPConfigOptionDic", xml.local(root))
    else:
        for signal in (each for each in root.iter() if xml.same(xml.local(each), "Signal")):
            reader.signal(signal)
    if reader.problems:
        raise InvalidFile(source, reader.problems)
    return OptionBook(
        (xml.field(root, "Name") or "")[:200], (xml.field(root, "Version") or "")[:40], ignores_storage, reader.options
    )


class _Reader:
    """Takes signals in and notes what is wrong with them."""

    def __init__(self, dialect: Dialect) -> None:
        self.options: dict[str, dict[str, Option]] = {}
        self.problems: list[Problem] = []
        self._dialect = dialect
        self._levels = {text: level for level, text in dialect.levels.items()}
        self._count = 0

    def wrong(self, element: xml.Element, name: str, expected: str, found: object, expected_zh: str = "") -> None:
        line = getattr(element, "sourceline", None)  # the stubs do not say what it is
        self.problems.append(
            Problem(line=line, field=name, expected=expected, expected_zh=expected_zh or expected, found=found)
        )

    def signal(self, element: xml.Element) -> None:
        point_id = xml.field(element, "SPID") or ""
        if not self._dialect.check_point_id(point_id):
            self.wrong(element, "SPID", self._dialect.id_rule, point_id, self._dialect.id_rule_zh)
            return
        found: dict[str, Option] = {}
        for each in xml.children(element, "Option"):
            self._count += 1
            if self._count > MAX_OPTIONS:
                if self._count == MAX_OPTIONS + 1:
                    self.wrong(each, "Option", f"at most {MAX_OPTIONS} options", self._count, f"最多 {MAX_OPTIONS} 项")
                return
            option = self._option(each)
            if option.option_id in found:
                self.wrong(each, "OptionID", "each option of a signal once", option.option_id, "同一信号的选项不得重复")
            found[option.option_id] = option
        if self.options.setdefault(point_id, found) != found:
            self.wrong(element, "SPID", "the same options wherever the signal stands", point_id, "同一信号的选项须一致")

    def _option(self, element: xml.Element) -> Option:
        option_id = xml.field(element, "OptionID") or ""
        if not 0 < len(option_id) <= ID_LENGTH:
            self.wrong(element, "OptionID", f"1 to {ID_LENGTH} characters", option_id, f"1至{ID_LENGTH}个字符")
        level_text = xml.field(element, "AlarmLevel") or ""
        level = self._levels.get(level_text)
        if level_text and level is None:  # one implementer notes words there, which the enumeration contradicts
            known = ", ".join(self._levels)
            self.wrong(element, "AlarmLevel", f"one of {known}, or nothing", level_text, f"{known} 之一或空")
        numbers = {name: self._number(element, attribute) for attribute, name in _NUMBERS.items()}
        return Option(option_id=option_id, level=level, **numbers)

    def _number(self, element: xml.Element, name: str) -> float | None:
        text = xml.field(element, name)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.wrong(element, name, "a number, or nothing", text, "数值或空")
            return None
        return value
