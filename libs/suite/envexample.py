"""``deploy/env.example``: every setting there is, with its default and what it is for, made from the models.

    python -m libs.suite.envexample > deploy/env.example

A test compares the committed file with what this prints.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

import orjson
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from libs.common.settings import PREFIX, SECTIONS, WELL_KNOWN, CommonSettings, SettingsModel

HEADER = """\
# Settings of Wattring. Each process reads them once, at start; a name that does not exist stops the start.
# Any of them may be given as <NAME>_FILE, the path of a file whose content is the value.
# Lines are commented out where they show the default.
"""


def sections() -> dict[str, type[SettingsModel]]:
    """Return the settings model of each section that has one, by section."""
    found: dict[str, type[SettingsModel]] = {}
    for name in SECTIONS:
        for module in (f"services.{name}.settings", f"services.control.{name}.settings", f"libs.{name}.settings"):
            if _exists(module):
                found[name] = getattr(importlib.import_module(module), f"{name.capitalize()}Settings")
                break
    return found


def variables(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the variables of a settings model with their fields."""
    for name, field in model.model_fields.items():
        inner = next((part for part in _parts(field.annotation) if isinstance(part, type)), None)
        if inner is not None and issubclass(inner, BaseModel):
            yield from variables(inner, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}", field


def text() -> str:
    """Return the whole file."""
    known = {ours: name for name, ours in WELL_KNOWN.items()}
    lines = [HEADER, "# --- every process ---\n"]
    lines += [_entry(known.get(name, name), field) for name, field in variables(CommonSettings, PREFIX)]
    for section, model in sections().items():
        lines.append(f"# --- {section} ---\n")
        lines += [_entry(name, field) for name, field in variables(model, f"{PREFIX}{section.upper()}__")]
    return "\n".join(lines)


def _entry(name: str, field: FieldInfo) -> str:
    description = (field.description or "").replace("\n", " ")
    return f"# {description}\n# {name}={_shown(field)}\n"


def _shown(field: FieldInfo) -> str:
    default: Any = field.get_default(call_default_factory=True, validated_data={})
    if default is None or default is PydanticUndefined or isinstance(default, SecretStr):
        return ""
    if isinstance(default, str | bool | int | float):
        return str(default).lower() if isinstance(default, bool) else f"{default}"
    if isinstance(default, tuple | list | dict):
        return orjson.dumps(default, default=str).decode()
    return str(default)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    sys.stdout.write(text())
