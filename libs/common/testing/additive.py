"""Whether a *pre* revision only adds, so that the release that still runs beside it does not notice.

Judged on the SQL text: a statement is additive when it creates something new, adds a column that the old release
need not fill, or changes data in a way that no statement of the old release depends on. Inside one revision,
whatever it does to a table that it has created itself is additive.
"""

import importlib.util
import re
from collections.abc import Sequence

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from libs.common.migrations import Revision

IDENTIFIER = r'(?:if not exists\s+|if exists\s+|only\s+)*(?P<name>[\w".]+)'
CREATE_TABLE = re.compile(rf"create\s+(?:unlogged\s+)?table\s+{IDENTIFIER}")
ON_TABLE = re.compile(
    rf"(?:alter\s+table\s+|create\s+(?:(?:unique\s+)?index|trigger)\b.*?\bon\s+){IDENTIFIER}", re.DOTALL
)

ADDITIVE = re.compile(
    r"""
      create\s+(unlogged\s+)?table | create\s+(or\s+replace\s+)?(view|function|procedure) | create\s+index
    | create\s+(sequence|type|statistics|extension|schema) | create\s+materialized\s+view
    | comment\s+on | grant | insert\s+into | update | select | set\s+local
    | alter\s+type\s+\S+\s+add\s+value
    """,
    re.VERBOSE,
)
HARMLESS_ALTERATION = re.compile(
    r"""
      add\s+column\s+ | alter\s+column\s+\S+\s+set\s+(default|storage|statistics|compression)
    | alter\s+column\s+\S+\s+drop\s+not\s+null | attach\s+partition | set\s*\( | reset\s*\( | validate\s+constraint
    """,
    re.VERBOSE,
)


def statements(revision: Revision) -> list[str]:
    """Return the SQL of a revision without running it."""
    collected: list[str] = []

    class Buffer:
        def write(self, text: str) -> None:
            collected.append(text.strip().rstrip(";"))

        def flush(self) -> None: ...

    spec = importlib.util.spec_from_file_location(f"revision_{revision.service}_{revision.number}", revision.path)
    if spec is None or spec.loader is None:
        raise ImportError(revision.name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": Buffer()})
    with Operations.context(context):
        module.upgrade()
    return collected


def non_additive(sql: Sequence[str]) -> list[str]:
    """Return the statements that an old release could notice, each shortened to a line."""
    created: set[str] = set()
    found: list[str] = []
    for text in sql:
        plain = _plain(text)
        if match := CREATE_TABLE.match(plain):
            created.add(match["name"])
        target = ON_TABLE.match(plain)
        if target is not None and target["name"] in created:
            continue
        if not _adds(plain):
            found.append(" ".join(text.split())[:120])
    return found


def _adds(plain: str) -> bool:
    if plain.startswith("alter table"):
        actions = _actions(re.sub(rf"alter\s+table\s+{IDENTIFIER}", "", plain, count=1))
        return all(_harmless(action) for action in actions)
    return ADDITIVE.match(plain) is not None


def _harmless(action: str) -> bool:
    if HARMLESS_ALTERATION.match(action) is None:
        return False
    # A column that must be filled breaks the inserts of a release that does not know it.
    must_be_filled = action.startswith("add column") and "not null" in action
    return not must_be_filled or "default" in action or "generated" in action


def _actions(text: str) -> list[str]:
    """Split the actions of ALTER TABLE at the commas outside parentheses."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def _plain(sql: str) -> str:
    """Return the statement in lower case, without comments and string contents, with single spaces."""
    without = re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)
    without = re.sub(r"'(?:[^']|'')*'", "''", without)
    return " ".join(without.lower().split())
