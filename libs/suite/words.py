"""The two languages of the command line."""

import os
from collections.abc import Mapping

VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")


class Words:
    """Chooses between an English and a Chinese text; call it with both."""

    def __init__(self, *, chinese: bool) -> None:
        self.chinese = chinese

    def __call__(self, english: str, chinese: str) -> str:
        """Return the text in the chosen language."""
        return chinese if self.chinese else english


def words_for(lang: str | None = None, environ: Mapping[str, str] | None = None) -> Words:
    """Return the language asked for (``en`` or ``zh``), else that of the environment."""
    variables = os.environ if environ is None else environ
    chosen = lang or next((variables[name] for name in VARIABLES if variables.get(name)), "en")
    return Words(chinese=chosen.lower().startswith("zh"))
