"""Where in a JSON document a value stands: the small part of JSONPath that device profiles need.

    $.data.ua                     from the top of the message
    data.ua                       from the item, where a message holds several; the same as @.data.ua
    $.list[0]['odd.name']         an element of a list; a name with characters of its own
    $.params[?@.id=='Ua'].value   the first element of a list whose member is this text or number

Nothing else of RFC 9535: a path finds one value or none, and what it costs is bounded by its length.

Source:
    RFC 9535 (2024), JSONPath: 2.1 ``$`` and ``@``, 2.3.1 names, 2.3.3 indexes, 2.3.5 filters.
"""

import re
from dataclasses import dataclass
from typing import Final


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What a path finds where there is nothing; a null that stands there is None."""

_NAME = re.compile(r"[^\s.\[\]'\"*?@$,:()]+")
_STEP = re.compile(
    r"""
    \.(?P<name>[^\s.\[\]'"*?@$,:()]+)
    | \[(?P<index>0|[1-9][0-9]{0,5})\]
    | \['(?P<quoted>[^'\\]+)'\]
    | \[\?@\.(?P<member>[^\s.\[\]'"*?@$,:()=]+)\s?==\s?(?:'(?P<text>[^'\\]*)'|(?P<number>-?[0-9]{1,15}))\]
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Where:
    """The first element of a list whose member has this value."""

    member: str
    value: str | int


Step = str | int | Where


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A path, taken apart."""

    text: str
    """As it was written."""
    from_top: bool
    """It begins at the message, not at the item."""
    steps: tuple[Step, ...]

    def find(self, message: object, item: object) -> object:
        """Return what stands there; ``MISSING`` where nothing does.

        Args:
            message: The whole document.
            item: The part of it that is one report; the document itself where it holds only one.
        """
        found = message if self.from_top else item
        for step in self.steps:
            found = _step(found, step)
            if found is MISSING:
                break
        return found


def parse_path(text: str) -> JsonPath:
    """Return the path that a text says.

    Raises:
        ValueError: It is none.
    """
    if text in ("$", "@"):
        return JsonPath(text, text == "$", ())
    rest = text if text[:1] in ("$", "@") else f"@.{text}" if _NAME.match(text) else f"@{text}"
    steps: list[Step] = []
    at = 1
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None:
            raise ValueError(f"not understood from {rest[at:]!r} on")
        steps.append(_of(match))
        at = match.end()
    if not steps:
        raise ValueError("empty")
    return JsonPath(text, rest[0] == "$", tuple(steps))


def _of(match: re.Match[str]) -> Step:
    if match["index"] is not None:
        return int(match["index"])
    if match["member"] is not None:
        return Where(match["member"], match["text"] if match["text"] is not None else int(match["number"]))
    return match["name"] or match["quoted"]


def _step(found: object, step: Step) -> object:
    if isinstance(step, str):
        return found.get(step, MISSING) if isinstance(found, dict) else MISSING
    if not isinstance(found, list):
        return MISSING
    if isinstance(step, int):
        return found[step] if step < len(found) else MISSING
    for element in found:
        if isinstance(element, dict):
            value = element.get(step.member, MISSING)
            # True == 1 in Python; in JSON they are different values.
            if type(value) is type(step.value) and value == step.value:
                return element
    return MISSING
