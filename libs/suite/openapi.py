"""The API of all services as a file: what integrators generate clients from, made from the services themselves.

    python -m libs.suite.openapi             write docs/api/openapi.json
    python -m libs.suite.openapi --check     say what differs and which promises are broken, write nothing

The file is the promise too: it is not written when a client made for it would lose something by the present API, unless
``--break`` says that this is meant (before the first release). A running suite serves the same document at
``/api/openapi.json``.
"""

import argparse
import asyncio
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libs.common.bus import open_bus
from libs.common.clock import SystemClock
from libs.common.runtime import Platform
from libs.common.settings import PREFIX, SERVICES, CommonSettings
from libs.common.tokens import KeyRing
from libs.suite.openapi_promises import broken

DOCUMENT = Path("docs/api/openapi.json")
LEVELS = 3
"""Of the document that have a line for each member: ``paths``, a path, its operations."""
COMMAND = ".venv/bin/python -m libs.suite.openapi"


def description() -> dict[str, Any]:
    """Return the merged description as the gateway serves it; nothing is started and nothing is reached."""
    return asyncio.run(_description())


async def _description() -> dict[str, Any]:
    from services.gateway.description import merge

    with tempfile.TemporaryDirectory() as folder:
        settings, clock = CommonSettings(data_dir=Path(folder)), SystemClock()
        KeyRing.create(settings.effective_keys_dir)
        platform = Platform(
            settings, clock, open_bus(settings, clock), KeyRing.open(settings.effective_keys_dir, clock)
        )
        pages = {
            name: importlib.import_module(f"services.{name}.main").build(platform).app.openapi() for name in SERVICES
        }
    first = {"gateway": pages["gateway"]}
    return merge(first | pages, version=pages["gateway"]["info"]["version"])


def text(document: Mapping[str, Any]) -> str:
    """Return a description as it is committed: a line for each operation, callback, schema and answer."""
    return _lines(document, LEVELS) + "\n"


def _lines(node: Any, levels: int) -> str:
    """Return JSON of which so many levels have a line for each member."""
    if levels == 0 or not isinstance(node, Mapping) or not node:
        return json.dumps(node, ensure_ascii=False, sort_keys=True)
    members = (f"{json.dumps(name)}: {_lines(value, levels - 1)}" for name, value in sorted(node.items()))
    return "{\n" + ",\n".join(members) + "\n}"


def trouble(path: Path, present: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the committed description in the light of the present API, and what mends it."""
    committed = path.read_text(encoding="utf-8") if path.is_file() else "{}"
    if committed == text(present):
        return []
    lost = _lost(committed, present)
    mend = f"{path} is not what the services say; write it with {COMMAND} and commit it"
    if lost:
        mend += "; it refuses to take something from a client unless --break says that this is meant"
    return [mend, *lost]


def _lost(committed: str, present: Mapping[str, Any]) -> list[str]:
    old = json.loads(committed)
    return broken(old, present) if old else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m libs.suite.openapi", description=__doc__)
    parser.add_argument("--file", type=Path, default=DOCUMENT, help=f"the description (default: {DOCUMENT})")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when something differs")
    parser.add_argument("--break", dest="may_break", action="store_true", help="write although promises are broken")
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]  # the document is that of the defaults
    present = description()
    found = trouble(options.file, present)
    if options.check:
        sys.stdout.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    lost = found[1:]
    sys.stdout.writelines(f"{line}\n" for line in lost)
    if lost and not options.may_break:
        return 1
    options.file.parent.mkdir(parents=True, exist_ok=True)
    options.file.write_text(text(present), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
