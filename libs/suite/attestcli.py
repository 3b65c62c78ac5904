"""``wattring attestations …``: heads to keep, proofs to hand over, the verifier, and the operator's own check."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from libs.suite.calls import Say, Settings
from libs.suite.words import Words

HEADS_AT_ONCE = 1000


class Suite(Protocol):
    """The API of the suite."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the answer of a GET."""


def add_attestations(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring attestations``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("what was committed, and proofs of it", "存证:树头、证明与校验"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="attestations")
    output = typer.Option("--output", "-o", dir_okay=False, help=words("write into a file", "写入文件"))

    @group.command(help=words("the newest signed head, for a witness to keep", "最新的已签名树头,供见证方保存"))
    def head(file: Annotated[Path | None, output] = None) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            write(api.get("attestations/heads/latest"), file, say)

    @group.command(help=words("proof that something was committed", "某项内容已存证的证明"))
    def prove(
        subject: Annotated[
            str, typer.Argument(help="circuit:<id>, medium:<register>/<circuit>, factor:<id>, report:<id>")
        ],
        at: Annotated[
            str | None, typer.Option(help=words("start of the interval, RFC 3339", "区间起始时间,RFC 3339"))
        ] = None,
        version: Annotated[int | None, typer.Option(min=1)] = None,
        file: Annotated[Path | None, output] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            write(api.get("attestations/inclusion", subject=subject, at=at, version=version), file, say)

    @group.command(help=words("proof that nothing under an earlier head was changed", "早先树头下内容未变的证明"))
    def unchanged(
        tree: Annotated[str, typer.Argument(help=words("of the head that was kept", "所存树头的日期"))],
        size: Annotated[int, typer.Argument(min=1)],
        file: Annotated[Path | None, output] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            write(api.get("attestations/consistency", old_tree=tree, old_size=size), file, say)

    @group.command(help=words("judge proofs and heads; needs no running suite", "校验证明与树头,无需运行系统"))
    def verify(
        documents: Annotated[list[Path], typer.Argument(help=words("proofs, heads, chains: JSON", "JSON 证明文件"))],
        key: Annotated[
            list[Path] | None, typer.Option(help=words("carbon.pub, several are fine", "公钥,可多个"))
        ] = None,
        witness: Annotated[list[Path] | None, typer.Option(help=words("heads that you kept", "您保存的树头"))] = None,
        file: Annotated[list[Path] | None, typer.Option(help=words("the report itself", "报告文件本身"))] = None,
    ) -> None:
        from libs.common import verifier

        arguments = [str(one) for one in documents]
        for name, places in (("--key", key), ("--witness", witness), ("--file", file)):
            for place in places or ():
                arguments += [name, str(place)]
        if key is None:
            arguments += ["--key", str(settings().effective_keys_dir / "carbon.pub")]
        raise typer.Exit(verifier.main([*arguments, "--lang", words("en", "zh")]))

    @group.command(help=words("write the verifier, one file for outsiders", "导出独立校验程序(单个文件)"))
    def verifier(file: Annotated[Path, typer.Argument(dir_okay=False)] = Path("verifier.py")) -> None:
        from libs.common import verifier as program

        file.write_bytes(Path(program.__file__).read_bytes())
        say(words(f"written: {file}; python {file} --help", f"已写入:{file};用法:python {file} --help"))

    @group.command(help=words("compare the log with the books, row by row", "将存证日志与账目逐行核对"))
    def check(
        start: Annotated[str | None, typer.Option("--from", help=words("first day", "起始日期"))] = None,
        end: Annotated[str | None, typer.Option("--to", help=words("last day", "结束日期"))] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            wrong = look(api, words, say, start or "1900-01-01", end or "2200-01-01")
            if start is None and end is None:
                wrong = max(wrong, look_at_books(api, words, say))
            raise typer.Exit(wrong)


def write(document: Any, file: Path | None, say: Say) -> None:
    """Write a document into a file, or say it."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    if file is None:
        say(text)
    else:
        file.write_text(text + "\n", encoding="utf-8")


def look(api: Suite, words: Words, say: Say, start: str, end: str) -> int:
    """Look at all trees of a span, say what is wrong with them; return the exit code."""
    leaves = wrong = 0
    trees = trees_of(api, start, end)
    for tree in trees:
        first: int | None = 0
        while first is not None:
            part = api.get("attestations/check", tree=tree, first=first)
            wrong += _say_faults(part["faults"], tree, words, say)
            leaves += part["end"] - part["first"]
            first = part["next"]
    say(
        words(
            f"{len(trees)} trees, {leaves} leaves, {wrong} faults", f"{len(trees)} 棵树,{leaves} 个叶子,{wrong} 处不符"
        )
    )
    return 1 if wrong else 0


def look_at_books(api: Suite, words: Words, say: Say) -> int:
    """Look for rows of the books that were never committed; return the exit code."""
    circuits = wrong = 0
    after: str | None = ""
    while after is not None:
        part = api.get("attestations/check/books", after=after)
        wrong += _say_faults(part["faults"], "", words, say)
        circuits += part["circuits"]
        after = part["next"]
    say(words(f"{circuits} circuits, {wrong} rows that do not belong there", f"{circuits} 个回路,{wrong} 行来历不明"))
    return 1 if wrong else 0


def _say_faults(faults: Sequence[Mapping[str, Any]], tree: str, words: Words, say: Say) -> int:
    for one in faults:
        said = (one["leaf"] or tree, one["subject"], words(one["message"], one["message_zh"]))
        say("  ".join(part for part in said if part))
    return len(faults)


def trees_of(api: Suite, start: str, end: str) -> list[str]:
    """Return the trees of a span of days that have a head, the oldest first."""
    found: list[str] = []
    while True:
        heads = api.get("attestations/heads", **{"from": start, "to": end, "limit": HEADS_AT_ONCE})
        found += sorted({head["tree"] for head in heads} - set(found))
        if len(heads) < HEADS_AT_ONCE:
            return found
        # The heads of a day are far fewer than a page: the last day of this one is read again, from its beginning.
        last = heads[-1]["tree"]
        start = last if last != heads[0]["tree"] else (date.fromisoformat(last) + timedelta(days=1)).isoformat()
