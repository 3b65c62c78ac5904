"""``wattring money``: tariffs, prices and bills in from files; what energy cost, and what of it is not billed yet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from libs.suite.calls import Say, Settings, items
from libs.suite.words import Words


class Suite(Protocol):
    """The API of the suite."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the parsed answer of a GET."""

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        """Return the parsed answer of a POST of a file's content."""


def add_money(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring money``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when a command runs.
        say: Prints a line.
    """
    group = typer.Typer(
        help=words("tariffs, prices, bills and what energy cost", "电价方案、电价、账单与电费"),
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.add_typer(group, name="money")
    file_ = Annotated[Path, typer.Argument(metavar="FILE", help=words("CSV or Excel (.xlsx)", "CSV 或 Excel(.xlsx)"))]
    from_ = Annotated[str, typer.Option("--from", help=words("first civil day, 2026-03-01", "首日,如 2026-03-01"))]
    to_ = Annotated[str, typer.Option("--to", help=words("the day after the last", "末日的次日"))]
    site_ = Annotated[str | None, typer.Option("--site", help=words("id of a site", "局站标识"))]
    account_ = Annotated[str | None, typer.Option("--account", help=words("electricity account", "用电户号"))]

    @group.command(help=words("import tariffs, each of them whole", "导入电价方案(每个方案整体替换)"))
    def tariffs(
        file: file_,
        end_previous: Annotated[
            bool,
            typer.Option("--end-previous", help=words("end what they replace on the day before", "原方案于前一日终止")),
        ] = False,
        reason: Annotated[str | None, typer.Option(help=words("why", "原因"))] = None,
    ) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            import_tariffs(api, words, say, file, end_previous=end_previous, reason=reason)

    @group.command(
        help=words("import prices by province, class, voltage and month", "按省份、类别、电压与月份导入电价")
    )
    def prices(file: file_) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            import_prices(api, words, say, file)

    @group.command(help=words("import bills", "导入电费账单"))
    def bills(file: file_) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            import_bills(api, words, say, file)

    @group.command("media-bills", help=words("import bills of water, gas, heat …", "导入水、燃气、热等账单"))
    def media_bills(file: file_) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            import_bills(api, words, say, file, path="bills/media/imports")

    @group.command(help=words("what the energy of a site or account cost, by band", "局站或户号的分时电费"))
    def cost(first: from_, last: to_, site: site_ = None, account: account_ = None) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            show_cost(api, words, say, first=first, last=last, site=site, account=account)

    @group.command(help=words("what is used and not billed yet, by month", "已用未出账电费(递延),按月"))
    def accruals(first: from_, site: site_ = None, account: account_ = None) -> None:
        from libs.suite.api import LocalApi

        with LocalApi(settings()) as api:
            list_accruals(api, words, say, first=first, site=site, account=account)


def import_tariffs(
    api: Suite, words: Words, say: Say, file: Path, *, end_previous: bool = False, reason: str | None = None
) -> None:
    """Import tariffs and say which of them changed.

    Raises:
        NotImported: The file cannot be read, or places in it are wrong; all are named.
    """
    more = {} if reason is None else {"reason": reason}
    done = _upload(api, "tariffs/imports", file, end_previous=end_previous, **more)
    for one in done["items"]:
        end = one["valid_to"] or words("open", "未定")
        say(
            words(
                f"{one['tariff_id']}: revision {one['revision']}, {one['windows']} windows, "
                f"{one['valid_from']} to {end}",
                f"{one['tariff_id']}:第 {one['revision']} 版,{one['windows']} 个时段,{one['valid_from']} 至 {end}",
            )
        )


def import_prices(api: Suite, words: Words, say: Say, file: Path) -> None:
    """Import prices and say how many are new.

    Raises:
        NotImported: The file cannot be read, or places in it are wrong; all are named.
    """
    done = _upload(api, "tariffs/prices/imports", file)
    new, same = len(done["items"]), done["unchanged"]
    say(words(f"{new} prices entered, {same} as they were", f"录入电价 {new} 条,未变 {same} 条"))


def import_bills(api: Suite, words: Words, say: Say, file: Path, *, path: str = "bills/imports") -> None:
    """Import bills and say how many there were; those of other media have a path of their own.

    Raises:
        NotImported: The file cannot be read, or places in it are wrong; all are named.
    """
    done = _upload(api, path, file)
    say(
        words(
            f"{done['bills']} bills entered, {done['corrected']} of them corrected",
            f"录入账单 {done['bills']} 张,其中更正 {done['corrected']} 张",
        )
    )


def show_cost(
    api: Suite, words: Words, say: Say, *, first: str, last: str, site: str | None, account: str | None
) -> None:
    """Say what energy cost by band, how complete that is, and why something is unknown."""
    span = {"from": f"{first}T00:00:00+08:00", "to": f"{last}T00:00:00+08:00"}
    found = api.get("energy/cost", site=site, account=account, **span)
    for one in found["bands"]:
        band = one["band"] or words("no tariff", "无方案")
        say(f"{band}: {float(one['energy_kwh']):.2f} kWh, {_cny(one['cost_cny'], words)}")
    complete = found["interval_completeness"]
    share = words("unknown", "未知") if complete is None else f"{complete:.1%}"
    say(
        words(
            f"total: {float(found['energy_kwh']):.2f} kWh, {_cny(found['cost_cny'], words)}, intervals known: {share}",
            f"合计:{float(found['energy_kwh']):.2f} kWh,{_cny(found['cost_cny'], words)},区间完整率:{share}",
        )
    )
    for one in found["unknown"]:
        say(words(one["text"], one["text_zh"]))


def list_accruals(api: Suite, words: Words, say: Say, *, first: str, site: str | None, account: str | None) -> None:
    """Say per account and month what was billed and what is still open."""
    for one in items(api, "bills/accruals", site=site, account=account, **{"from": first}):
        say(_accrual(one, words))


def _accrual(one: Mapping[str, Any], words: Words) -> str:
    billed, still_open = _cny(one["billed_cny"], words), _cny(one["open_cny"], words)
    return words(
        f"{one['account_number']} {one['month']}: billed {billed}; {one['open_days']} days open, {still_open}",
        f"{one['account_number']} {one['month']}:已出账 {billed};未出账 {one['open_days']} 天,{still_open}",
    )


def _cny(amount: str | None, words: Words) -> str:
    return words("cost unknown", "电费未知") if amount is None else words(f"{amount} CNY", f"{amount} 元")


def _upload(api: Suite, path: str, file: Path, **params: Any) -> Any:
    from libs.suite.api import Refused
    from libs.suite.importing import NotImported

    try:
        content = file.read_bytes()
    except OSError as exc:
        raise NotImported(
            f"{file} cannot be read: {exc.strerror}", message_zh=f"无法读取 {file}:{exc.strerror}"
        ) from exc
    try:
        return api.upload(path, content, media_type="application/octet-stream", file=file.name[-200:], **params)
    except Refused as exc:
        raise NotImported(exc.message, message_zh=exc.message_zh) from exc
