"""``wattring audit …``: the audit of switching, its export, and whether its chain holds."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from libs.common.auditchain import Broken, Head, Verified, read_csv, read_ndjson, verify
from libs.common.errors import PlatformError
from libs.suite.calls import Say, Settings, items
from libs.suite.words import Words

if TYPE_CHECKING:
    from libs.common.tokens import KeyRing

SIGNER = "control"
HEAD_SUBJECT = "audit:control"


class Suite(Protocol):
    """The API of the suite."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the answer of a GET."""

    def fetch(self, path: str, **params: Any) -> bytes:
        """Return the file of a GET."""

    def lines(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield the JSON lines of a GET."""


def add_audit(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring audit``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("who switched what, and whether the record is whole", "分合闸操作审计与完整性校验"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="audit")
    since = typer.Option("--from", help=words("RFC 3339, with offset", "RFC 3339 时间,带时区"))
    until = typer.Option("--to", help=words("RFC 3339, not included", "RFC 3339 时间,不含"))

    @group.command("list", help=words("entries, the youngest first", "审计记录,最近的在前"))
    def list_(
        actor: Annotated[str | None, typer.Option(help=words("user:…, key:…, plan:…", "user:…、key:…、plan:…"))] = None,
        subject: Annotated[str | None, typer.Option(help=words("load:…, plan:…", "load:…、plan:…"))] = None,
        action: Annotated[str | None, typer.Option(help="plan.approve, load.off …")] = None,
        refused: Annotated[bool, typer.Option("--refused", help=words("only what failed", "仅被拒绝或失败的"))] = False,
        start: Annotated[str | None, since] = None,
        end: Annotated[str | None, until] = None,
        limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    ) -> None:
        from libs.suite.api import LocalApi

        wanted = {"actor": actor, "subject": subject, "action": action, "from": start, "to": end, "limit": limit}
        with LocalApi(settings()) as api:
            list_entries(api, words, say, succeeded=False if refused else None, **wanted)

    @group.command(help=words("write the chain into a file, .ndjson or .csv", "导出审计链,.ndjson 或 .csv"))
    def export(
        file: Annotated[Path, typer.Argument(dir_okay=False)],
        start: Annotated[str | None, since] = None,
        end: Annotated[str | None, until] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            export_chain(api, words, say, file, **{"from": start, "to": end})

    @group.command("verify", help=words("of a file, or of the running suite", "校验文件,或校验运行中的系统"))
    def verify_(
        file: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False)] = None,
        keys: Annotated[
            Path | None, typer.Option(help=words("folder with control.pub", "存放 control.pub 的目录"))
        ] = None,
    ) -> None:
        from libs.common.clock import SystemClock
        from libs.common.tokens import KeyRing
        from libs.suite.api import LocalApi

        if file is not None:
            try:
                ring = KeyRing.open(keys or settings().effective_keys_dir, SystemClock())
            except PlatformError:
                ring = None
            with file.open(encoding="utf-8", newline="") as lines:
                entries = read_csv(lines) if file.suffix == ".csv" else read_ndjson(lines)
                raise typer.Exit(judge(entries, (), ring, words, say))
        found = settings()
        ring = KeyRing.open(keys or found.effective_keys_dir, SystemClock())
        with LocalApi(found) as api:
            raise typer.Exit(judge(api.lines("commands/audit/export"), published(api), ring, words, say))


def list_entries(api: Suite, words: Words, say: Say, **wanted: Any) -> None:
    """Say one line for each entry."""
    items = api.get("commands/audit", **wanted)["items"]
    for one in items:
        mark = "" if one["succeeded"] else words("REFUSED OR FAILED", "被拒绝或失败")
        why = one["reason"] or ""
        say(f"{one['seq'] or '-'}  {one['at']}  {one['actor']}  {one['door']}  {one['action']}  {one['subject']}  "
            f"{mark}  {why}".rstrip())  # fmt: skip
    if not items:
        say(words("nothing", "没有符合条件的记录"))


def export_chain(api: Suite, words: Words, say: Say, file: Path, **wanted: Any) -> None:
    """Write the chain into a file; its ending says in which form."""
    form = "csv" if file.suffix == ".csv" else "ndjson"
    file.write_bytes(api.fetch("commands/audit/export", format=form, **wanted))
    say(words(f"written: {file}; look at it with: wattring audit verify {file}",
              f"已写入:{file};校验:wattring audit verify {file}"))  # fmt: skip


def published(api: Suite) -> list[Head]:
    """Return the heads that control has told the audit of all services, which lies with the gateway.

    Raises:
        Broken: One of them cannot be read.
    """
    return [Head.read(one["after"]) for one in items(api, "audit", subject=HEAD_SUBJECT, limit=1000)]


def judge(
    entries: Iterable[Mapping[str, Any]], heads: list[Head] | tuple[()], ring: "KeyRing | None", words: Words, say: Say
) -> int:
    """Say whether a chain holds; return 0 when it does, 1 when it does not."""
    try:
        genuine = [head for head in heads if ring is not None and head.holds(ring, SIGNER)]
        found = verify(entries, genuine)
        _check_heads(found, genuine, ring)
    except Broken as exc:
        say(words(f"BROKEN: {exc.english}", f"已损坏:{exc.chinese}"))
        return 1
    say(words(f"whole: entries {found.first} to {found.last}, hash of the last {found.hash}",
              f"完整:第 {found.first} 至 {found.last} 条,末条散列 {found.hash}"))  # fmt: skip
    if found.first > 1:
        say(words(f"what came before entry {found.first} was not looked at", f"第 {found.first} 条之前的未校验"))
    if heads:
        say(words(f"published heads that agree: {len(genuine)}", f"与已公布链头一致:{len(genuine)} 个"))
    if found.head is None:
        say(words("no signed head: whether the end is missing cannot be seen", "无签名链头:无法判断末尾是否缺失"))
    elif ring is None:
        say(words("no key of control here: the head's signature was not looked at", "没有 control 公钥:未校验链头签名"))
    elif found.head.seq > found.last:
        say(words(f"the chain went on to {found.head.seq}", f"审计链当时已到第 {found.head.seq} 条"))
    return 0


def _check_heads(found: Verified, heads: list[Head], ring: "KeyRing | None") -> None:
    if found.head is not None and ring is not None and not found.head.holds(ring, SIGNER):
        raise Broken(found.head.seq, "the head is not signed by control", "链头签名不是 control 的")
    last = max((head.seq for head in heads), default=0)
    if last > found.last:
        raise Broken(found.last + 1, f"entry {found.last + 1} is missing: head {last} was published",
                     f"缺少第 {found.last + 1} 条:已公布的链头为 {last}")  # fmt: skip
