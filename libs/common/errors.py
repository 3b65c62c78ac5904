"""The one tree of errors that Wattring raises on purpose.

    PlatformError
    ├── InvalidInput     the caller must change the request        400
    │   └── InvalidFile  the same, with file, place and field
    ├── Unauthenticated  who is asking is not known                401
    ├── Forbidden        known, but may not                        403
    ├── NotFound         no such thing                             404
    ├── Conflict         the state of the thing forbids it         409
    ├── TooManyRequests  the caller's own limit; wait              429
    └── Unavailable      a dependency is away; try again           503

Services subclass beside the code that raises. ``code`` is stable and for programs, the message is for
people, in English and Chinese. The HTTP numbers are applied in ``web.py`` only.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


class Bilingual(NamedTuple):
    """A text for people, in both languages."""

    english: str
    chinese: str


PROBLEMS_SHOWN = 200
"""Wrong places of one file that are told; a file of millions of them would be an answer of gigabytes."""


class PlatformError(Exception):
    """An error whose reader can act on it."""

    code: str = "platform_error"
    """Stable name of the kind. An instance that passes on another service's refusal carries that service's code."""
    title_zh: ClassVar[str] = "平台错误"

    def __init__(self, message: str, *, message_zh: str | None = None, **facts: Any) -> None:
        """Say what is wrong.

        Args:
            message: One sentence, with the values that make it checkable.
            message_zh: The same in Chinese; without it ``title_zh`` stands in.
            facts: The same values for programs, as far as JSON can carry them.
        """
        super().__init__(message)
        self.message = message
        self.message_zh = message_zh
        self.facts = facts

    @property
    def both(self) -> Bilingual:
        """The message in both languages; one that has no Chinese follows its Chinese title."""
        return Bilingual(self.message, self.message_zh or f"{self.title_zh}:{self.message}")


class InvalidInput(PlatformError):
    """The caller must change the request."""

    code = "invalid_input"
    title_zh = "输入有误"


class InvalidFile(InvalidInput):
    """A file or document is wrong at named places; nothing of it was taken."""

    code = "invalid_file"
    title_zh = "文件有误"

    def __init__(self, source: str, problems: "list[Problem]") -> None:
        self.problems = problems[:PROBLEMS_SHOWN]
        """The first wrong places."""
        lines = [f"{source}: {len(problems)} problem(s), nothing was imported"]
        lines_zh = [f"{source}:共 {len(problems)} 处错误,未导入任何内容"]
        lines += [f"  {source}:{problem}" for problem in self.problems]
        lines_zh += [f"  {source}:{problem.text_zh()}" for problem in self.problems]
        if more := len(problems) - len(self.problems):
            lines.append(f"  … and {more} more")
            lines_zh.append(f"  …… 另有 {more} 处")
        super().__init__(
            "\n".join(lines),
            message_zh="\n".join(lines_zh),
            source=source,
            problems=[problem.as_dict() for problem in self.problems],
            problem_count=len(problems),
        )


class WrongValue(ValueError):
    """What a validator of ours says of a value, in both languages, as it reads after "expected"."""

    def __init__(self, message: str, message_zh: str) -> None:
        super().__init__(message)
        self.message_zh = message_zh


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One wrong place in a file: where, which field, what was expected."""

    line: int | None
    """Counted from 1; None where the file has no lines or the whole of it is meant."""
    field: str
    expected: str
    found: object = None
    """What stands there; None where nothing does."""
    expected_zh: str | None = None
    """``expected`` in Chinese; without it the English stands in."""

    def as_dict(self) -> dict[str, Any]:
        """Return the problem as JSON-ready facts."""
        return {
            "line": self.line,
            "field": self.field,
            "expected": self.expected,
            "expected_zh": self.expected_zh or self.expected,
            "found": None if self.found is None else str(self.found)[:200],
        }

    def __str__(self) -> str:
        place = f"{self.line}: " if self.line is not None else " "
        found = "" if self.found is None else f", found {str(self.found)[:200]!r}"
        return f"{place}{self.field}: expected {self.expected}{found}"

    def text_zh(self) -> str:
        """Return the same in Chinese."""
        place = f"{self.line}: " if self.line is not None else " "
        found = "" if self.found is None else f",实际为 {str(self.found)[:200]!r}"
        return f"{place}{self.field}:应为{_spaced(self.expected_zh or self.expected)}{found}"


def _spaced(text: str) -> str:
    """Return a text as it follows a Chinese one: with a space before a Latin letter or digit."""
    return f" {text}" if text[:1].isascii() else text


class Unauthenticated(PlatformError):
    """Who is asking is not known."""

    code = "unauthenticated"
    title_zh = "未登录"


class Forbidden(PlatformError):
    """Known, but not allowed."""

    code = "forbidden"
    title_zh = "无权限"


class NotFound(PlatformError):
    """There is no such thing."""

    code = "not_found"
    title_zh = "不存在"


class Conflict(PlatformError):
    """The state of the thing forbids what was asked."""

    code = "conflict"
    title_zh = "状态冲突"


class TooManyRequests(PlatformError):
    """The caller has asked too often; the fact ``retry_after_s`` says when the same request may pass."""

    code = "too_many_requests"
    title_zh = "请求过于频繁"


class Unavailable(PlatformError):
    """A dependency is away; the same request may succeed later."""

    code = "unavailable"
    title_zh = "暂不可用"
