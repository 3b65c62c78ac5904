"""``wattring wake``: one key from the command line, when everything above it may be down."""

from typing import Annotated

import typer

from libs.suite.calls import Say, Settings
from libs.suite.words import Words


def add_wake(app: typer.Typer, words: Words, settings: Settings, say: Say) -> None:
    """Add ``wattring wake``.

    Args:
        app: The command line.
        words: Its language.
        settings: Reads the settings, when the command runs.
        say: Prints a line.
    """

    @app.command(
        help=words(
            "one key: wake loads by whatever still answers (API, watchdog, ingest's direct door). "
            "Exit code 0: all on; 1: some are not; 3: nothing answers",
            "一键唤醒:经由仍在应答的任一途径(接口、看门狗、采集直连接口)。退出码 0:全部合闸;1:部分未合闸;3:无应答",
        )
    )
    def wake(
        load: Annotated[list[str] | None, typer.Option(help=words("id; may be repeated", "负载编号,可重复"))] = None,
        device: Annotated[str | None, typer.Option(help=words("all loads of a device", "设备的全部负载"))] = None,
        site: Annotated[str | None, typer.Option(help=words("all loads of a site", "局站的全部负载"))] = None,
        region: Annotated[str | None, typer.Option(help=words("all loads of a region", "区域的全部负载"))] = None,
        everything: Annotated[bool, typer.Option("--all", help=words("every load", "全部负载"))] = False,
        reason: Annotated[str, typer.Option(help=words("for the record", "原因,记入审计"))] = "",
        release: Annotated[
            str | None,
            typer.Option(
                help=words("wakes nothing: lets the plans of this order go on", "不唤醒:恢复该命令暂停的策略")
            ),
        ] = None,
        wait_s: Annotated[float, typer.Option("--wait", min=1, max=3600, help=words("seconds", "等待秒数"))] = 60.0,
    ) -> None:
        import asyncio

        from libs.suite import waking

        if release is not None:
            waking.release(settings(), release, words, say)
            return

        wanted = waking.read_wanted(load or [], device, site, region, everything=everything, reason=reason)
        raise typer.Exit(asyncio.run(waking.wake(settings(), wanted, words, say, wait_s=wait_s)))
