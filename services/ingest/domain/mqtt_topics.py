"""Topics of MQTT products: what to subscribe to, which device a topic names, where a command goes.

A template is a topic filter in which ``{device}`` stands for the address of a device, alone in its level or with text
around it (``meter-{device}/up``).

Source:
    MQTT 5.0 (OASIS, 2019), 4.7: levels, ``+`` and ``#``; wildcards at the beginning do not match topics with ``$``.
"""

import re
from dataclasses import dataclass, field

DEVICE = "{device}"


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """A template of a profile, ready to be matched."""

    text: str
    _pattern: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, text: str) -> "TopicTemplate":
        """Return the template that a checked profile has."""
        levels = text.split("/")
        parts: list[str] = []
        for number, level in enumerate(levels):
            if level == "#":
                # It stands for its parent too: a/# matches a.
                parts[-1:] = [f"{parts[-1]}(?:/.*)?"] if parts else ["[^$].*"]
            elif level == "+":
                parts.append("[^/$][^/]*|" if number == 0 else "[^/]*")
            else:
                parts.append(re.escape(level).replace(re.escape(DEVICE), "(?P<device>[^/]+)"))
        joined = "/".join(f"(?:{part})" if part.endswith("|") else part for part in parts)
        return cls(text, re.compile(joined, re.DOTALL))

    @property
    def filter(self) -> str:
        """What to subscribe to for all devices of the product."""
        return "/".join("+" if DEVICE in level else level for level in self.text.split("/"))

    def filter_of(self, address: str) -> str:
        """What to subscribe to for one device."""
        return self.text.replace(DEVICE, address)

    def match(self, topic: str) -> re.Match[str] | None:
        """Return a match when a message of this topic is of the template's sort; ``address_in`` reads it."""
        return self._pattern.fullmatch(topic)


def address_in(match: re.Match[str]) -> str | None:
    """Return the device's address in a matched topic, None where the template has none."""
    return match.groupdict().get("device")


def is_address(text: str) -> bool:
    """Return whether an address can stand in a topic: no level of its own, no wildcard."""
    return bool(text) and not set(text) & {"/", "+", "#", "\0"}
