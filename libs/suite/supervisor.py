"""``wattring up``: the whole suite on one machine, as child processes that are kept running.

    supervisor ── postgres     embedded server, unless DATABASE_URL names one
               ├─ suite        six services in one process (suite.py)
               ├─ watchdog     the wake-up watchdog, a process of its own on purpose
               ├─ jobs         niced worker for imports and reports (jobworker.py)
               └─ field        with --demo: the simulated field

The suite starts while the database does: its imports take as long as a crash recovery. It answers 503 with the
reason until the schemas are up to date. Every event is one line for the person at the terminal; what the processes
log is in files. SIGINT and SIGTERM stop all of it in order within ``STOP_BOUND_S``, a second one at once.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common.errors import Bilingual, PlatformError
from libs.common.settings import SERVICES, CommonSettings, load_section
from libs.common.tokens import KeyRing
from libs.suite.children import Child, Process, Program, Roster, end_left_behind, get, post, trim
from libs.suite.envexample import sections
from libs.suite.folders import DataFolder, write_private
from libs.suite.postgres import EmbeddedPostgres
from libs.suite.words import Words

DISK_NEEDED_BYTES = 200 << 20
"""Below this nothing is started: PostgreSQL's log alone needs more within minutes. [B]"""
DISK_LOW_BYTES = 1 << 30
"""Below this a line is printed. [B]"""
CHORES_EVERY_S = 30.0
READY_POLL_S = 0.1
READY_EVERY_S = 5.0
"""How often readiness is looked at once it has been reached. [s]"""
SLOW_START_S = 10.0
"""After this the person is told what is being waited for. [s]"""
REASONS_MAX = 200
"""Letters of a line about readiness; ``/readyz`` of each service has all of it."""
EARLY_ENDS = 3
"""A process that ends this often before the suite was ever ready will not mend by itself."""
STOP_BOUND_S = 75.0
"""Everything has stopped, or was killed, after this: 20 s for the processes, 50 s for the database. [s]"""

UNIT_HOST_VARIABLE = "WATTRING_EXPORT__UNIT_HOST"
UNIT_PORT_VARIABLE = "WATTRING_EXPORT__UNIT_PORT"
COLD_VARIABLE = "WATTRING_INGEST__HISTORY__COLD__URL"
"""An empty one keeps all days in PostgreSQL."""
UNIT_PORT = 8080
"""Where a supervision centre looks for units unless told otherwise."""
DEMO_SETTINGS: Mapping[str, str] = {
    "WATTRING_INGEST__SWITCHING__CLOCK_SYNC": "assumed",
    "WATTRING_CONTROL__CLOCK_SYNC": "assumed",
    "WATTRING_CONTROL__MIN_OFF_S": "10",
    "WATTRING_CONTROL__MIN_ON_S": "0",
    "WATTRING_CONTROL__MAX_OFFS_PER_DAY": "1000",
    "WATTRING_CONTROL__PREPARE_S": "10",
    "WATTRING_ALARM__WAKE_SETTLE_S": "5",
}
"""What a demonstration of two minutes needs and a real site must not have: its breakers are simulated ones, so a
shutdown may be short, often, and on a machine whose clock nobody synchronises. What the environment says wins."""

ANSWERING = (*SERVICES, "watchdog")
"""Who must be ready for the suite to be."""
LISTENING = (*ANSWERING, "jobs")
"""Who has a socket of its own."""


class StartFailed(PlatformError):
    """The suite cannot be started; the message says what to do."""

    code = "start_failed"
    title_zh = "启动失败"


class PortTaken(PlatformError):
    """The address is in use."""

    code = "port_taken"
    title_zh = "端口被占用"


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


@dataclass(frozen=True)
class Commands:
    """What is run as what; a test puts stand-ins here."""

    suite: Sequence[str] = _python("libs.suite.suite")
    watchdog: Sequence[str] = _python("services.control.watchdog")
    jobs: Sequence[str] = _python("libs.suite.jobworker")
    schema: Sequence[str] = _python("libs.suite.schema")
    field: Sequence[str] = _python("libs.fieldsim.cli")
    seed: Sequence[str] = _python("libs.suite.demo")


@dataclass
class PostgresProcess:
    """The embedded server as a process to be kept."""

    server: EmbeddedPostgres
    name: str = "postgres"

    def spawn(self) -> int:
        """Start the server and return its process id."""
        self.server.launch()
        return self.server.pid or 0

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""
        return self.server.returncode()

    def terminate(self) -> None:
        """Ask it for a fast stop."""
        self.server.request_stop()

    def kill(self) -> None:
        """End it; the next start recovers."""
        self.server.kill()

    def why(self) -> Bilingual:
        """Return why it ended, in a line."""
        english, chinese = self.server.failure().both
        return Bilingual(english.splitlines()[-1], chinese.splitlines()[-1])


class Supervisor:
    """One run of the suite."""

    def __init__(
        self,
        settings: CommonSettings,
        *,
        demo: bool,
        words: Words,
        say: Callable[[str], None],
        commands: Commands | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            settings: From the environment.
            demo: Whether to run the simulated field and seed the demonstration.
            words: Language of the lines.
            say: Prints one line.
            commands: What is run.
        """
        self._demo = demo
        self._commands = commands or Commands()
        self._words = words
        self._say = say
        self._folder = DataFolder(settings.data_dir)
        self._settings = settings
        self._server = None if settings.database.url else EmbeddedPostgres(self._folder.postgres)
        self._roster = Roster(self._folder.children)
        self._children: list[Child] = []
        self._keepers: asyncio.TaskGroup | None = None
        self._port = settings.port
        self._began = time.monotonic()
        self._unit_port = 0

    async def run(self) -> int:
        """Run until a signal; return the exit code."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, stop)
        try:
            self._folder.create()
            with self._folder.locked():
                return await self._run_locked(stop)
        except (PlatformError, OSError) as exc:
            self._fail(exc)
            return 1
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _run_locked(self, stop: asyncio.Event) -> int:
        code = 0
        try:
            self._look_around()
            async with asyncio.TaskGroup() as group:
                self._keepers = group
                tasks = [
                    group.create_task(self._bring_up(), name="bring up"),
                    group.create_task(self._chores(), name="chores"),
                ]
                await stop.wait()
                for task in tasks:
                    task.cancel()
                await self._stop_children()
        except* (PlatformError, OSError) as problems:
            code = 1
            for problem in _leaves(problems):
                self._fail(problem)
        finally:
            await self._stop_children()
        self._line("", self._words("stopped", "已停止"))
        return code

    def _signalled(self, stop: asyncio.Event) -> None:
        if not stop.is_set():
            self._line("", self._words("stopping; Ctrl-C again forces it", "正在停止;再按 Ctrl-C 强制结束"))
            self._stop_asked_at = time.monotonic()
            stop.set()
        elif time.monotonic() - self._stop_asked_at > 1.0:  # one Ctrl-C can arrive twice, through a wrapper
            for child in self._children:
                child.process.kill()

    # -- before anything is started ---------------------------------------------------------------

    def _look_around(self) -> None:
        """Clear what a dead supervisor left, and check what would fail later and less clearly."""
        for section, model in sections().items():
            load_section(section, model)
        if self._settings.profile_dirs:
            from libs.common.profiles import ProfileCatalogue

            ProfileCatalogue.load(self._settings.profile_dirs)
        end_left_behind(self._roster, said=self._left_behind)
        free = shutil.disk_usage(self._folder.root).free
        if free < DISK_NEEDED_BYTES:
            raise StartFailed(
                f"disk full: {free >> 20} MB are left at {self._folder.root}, {DISK_NEEDED_BYTES >> 20} MB are needed",
                message_zh=f"磁盘已满:{self._folder.root} 仅剩 {free >> 20} MB,至少需要 {DISK_NEEDED_BYTES >> 20} MB",
            )
        self._port = claim_port(self._settings.host, self._settings.port)
        if self._demo and UNIT_PORT_VARIABLE not in os.environ:
            self._unit_port = free_port(UNIT_PORT)
        elif (wanted := os.environ.get(UNIT_PORT_VARIABLE, str(UNIT_PORT))).isdigit() and int(wanted):
            claim_port(os.environ.get(UNIT_HOST_VARIABLE, "127.0.0.1"), int(wanted), UNIT_PORT_VARIABLE)
        KeyRing.create(self._folder.keys)
        if any(name.startswith("WATTRING_GATEWAY__FIRST_PASSWORD") for name in os.environ):
            self._folder.first_password.unlink(missing_ok=True)  # the operator chose one
        elif not self._folder.password_shown.exists() and not self._folder.first_password.exists():
            write_private(self._folder.first_password, secrets.token_urlsafe(12))

    def _left_behind(self, name: str, pid: int) -> None:
        self._line(
            name,
            self._words(
                f"left over from a supervisor that was killed (process {pid}): stopping it",
                f"上次异常退出遗留的进程 {pid}:正在停止",
            ),
        )

    # -- start ------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        if self._server is not None:
            await self._start_database(self._server)
        environ = self._environment(first_password=True)
        suite = Program("suite", self._commands.suite, self._folder.log("suite"), environ)
        self._keep(suite, probes=[self._folder.socket(name) for name in SERVICES])
        await self._schema()
        self._keep_peer("watchdog", self._commands.watchdog)
        await self._until_ready()
        suite.environ = self._environment()
        if self._demo:
            self._keep_field()
        self._keep_peer("jobs", self._commands.jobs, nice=10)
        await self._announce()
        if self._demo:
            await self._seed()
        await self._watch_readiness()

    def _keep_field(self) -> None:
        environ = self._environment()
        field = [*self._commands.field, "demo", "--data-dir", str(self._folder.root / "field")]
        field += ["--unit-url", f"http://127.0.0.1:{environ[UNIT_PORT_VARIABLE]}/services/FSUService"]
        self._keep(Program("field", field, self._folder.log("field"), environ))

    async def _start_database(self, server: EmbeddedPostgres) -> None:
        if not server.cluster.exists():
            self._line("postgres", self._words("creating the database (first start)", "首次启动,正在创建数据库"))
        await asyncio.to_thread(server.prepare)
        await asyncio.to_thread(server.stop_leftover)
        write_private(self._folder.database_url, server.url)
        self._keep(PostgresProcess(server))

    def _keep_peer(self, name: str, command: Sequence[str], *, nice: int = 0) -> None:
        """Keep a process that listens on its own socket."""
        environ = {**self._environment(), "WATTRING_UDS": str(self._folder.socket(name))}
        for variable in ("WATTRING_INTERNAL_PORT", "WATTRING_INTERNAL_PORT_FILE"):
            environ.pop(variable, None)  # the suite has it
        program = Program(name, command, self._folder.log(name), environ, nice)
        self._keep(program, probes=[self._folder.socket(name)])

    def _keep(self, process: Process, *, probes: Sequence[Path] = ()) -> None:
        assert self._keepers is not None  # noqa: S101 - set before the first child
        child = Child(process, self, self._roster, probes=probes)
        child.start()
        self._children.append(child)
        self._keepers.create_task(child.keep(), name=child.name)

    def _environment(self, *, first_password: bool = False) -> dict[str, str]:
        """Return the children's environment: ours, with the places that this run decided."""
        decided = ("WATTRING_PORT", "WATTRING_DATA_DIR", "WATTRING_SERVICE_URLS", "WATTRING_UDS", "WATTRING_KEYS_DIR")
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PORT", "PORT_FILE") and name.removesuffix("_FILE").partition("__")[0] not in decided
        }
        environ["WATTRING_PORT"] = str(self._port)
        environ["WATTRING_DATA_DIR"] = str(self._folder.root)
        environ["WATTRING_KEYS_DIR"] = str(self._folder.keys)
        environ["WATTRING_SERVICE_URLS"] = json.dumps({name: f"unix:{self._folder.socket(name)}" for name in LISTENING})
        environ["PYTHONUNBUFFERED"] = "1"
        if COLD_VARIABLE not in environ and f"{COLD_VARIABLE}_FILE" not in environ:
            environ[COLD_VARIABLE] = str(self._folder.cold)
        if self._server is not None:
            environ["WATTRING_DATABASE__URL_FILE"] = str(self._folder.database_url)
        if self._demo:
            environ = {UNIT_PORT_VARIABLE: str(self._unit_port), **DEMO_SETTINGS, **environ}
        if first_password and self._folder.first_password.exists():
            environ["WATTRING_GATEWAY__FIRST_PASSWORD_FILE"] = str(self._folder.first_password)
        return environ

    async def _schema(self) -> None:
        """Bring the schemas up to date; the helper waits for the database and says so."""
        code, lines = await self._helper("postgres", [*self._commands.schema, "--lang", self._lang])
        if code != 0:
            said = "\n".join(lines[-5:])  # in the person's language already
            raise StartFailed(
                said or f"the migration ended with code {code}", message_zh=said or f"迁移退出,代码 {code}"
            )

    async def _seed(self) -> None:
        code, lines = await self._helper("demo", [*self._commands.seed, "--lang", self._lang])
        if code != 0:
            text = self._words("the demonstration could not be set up", "演示数据未能建立")
            self._line("demo", f"{text}: {lines[-1] if lines else code}")

    async def _helper(self, name: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
        """Run a program to its end, passing its lines on; return its code and what it said."""
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,
        )
        said: list[str] = []
        try:
            assert process.stdout is not None  # noqa: S101 - piped above
            async for raw in process.stdout:
                said.append(raw.decode(errors="replace").rstrip())
                if not said[-1].startswith("error: "):
                    self._line(name, said[-1])
            return await process.wait(), [line.removeprefix("error: ") for line in said]
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await process.wait()

    # -- ready ------------------------------------------------------------------------------------

    async def _until_ready(self) -> None:
        began, said = time.monotonic(), dict[str, str]()
        while reasons := await self._not_ready():
            for child in self._children:
                if child.ends >= EARLY_ENDS or not child.mends:
                    english, chinese = child.process.why()
                    log = self._folder.log(child.name)
                    raise StartFailed(
                        f"{child.name} does not start: {english}\nits log: {log}",
                        message_zh=f"{child.name} 无法启动:{chinese}\n日志:{log}",
                    )
            if time.monotonic() - began > SLOW_START_S and _kinds(reasons) != said:
                said = _kinds(reasons)
                self._line("", self._words("waiting: ", "等待:") + _listed(reasons))
            await asyncio.sleep(READY_POLL_S)

    async def _watch_readiness(self) -> None:
        """Say when the suite stops and starts being able to work, and why."""
        said: dict[str, str] = {}
        while True:
            await asyncio.sleep(READY_EVERY_S)
            reasons = await self._not_ready()
            if _kinds(reasons) == said:
                continue
            if reasons:
                self._line("", self._words("not ready: ", "未就绪:") + _listed(reasons))
            else:
                self._line("", self._words("ready again", "已恢复就绪"))
            said = _kinds(reasons)

    async def _not_ready(self) -> dict[str, str]:
        """Return what keeps services from working, by service; empty when all are ready."""
        reasons: dict[str, str] = {}
        for name in ANSWERING:
            status, body = await get(self._folder.socket(name), "/readyz")
            if status != 200:
                field = self._words("reasons", "reasons_zh")
                reasons[name] = _reason(body, field) if status else self._words("starting", "启动中")
        return reasons

    async def _announce(self) -> None:
        words, took_s = self._words, time.monotonic() - self._began
        address = f"http://{_shown_host(self._settings.host)}:{self._port}"
        page = words("live values, alarms, switching, energy and carbon", "实时数据、告警、开关、能耗与碳排")
        self._say("")
        self._say(words(f"ready  (after {took_s:.1f} s)", f"就绪 ready(用时 {took_s:.1f} 秒)"))
        self._fact(words("address", "地址"), address)
        if self._folder.first_password.exists():
            await self._show_first_password()
        self._fact(words("to see", "可看"), f"{address}/       {page}")
        self._fact("", f"{address}/docs   {words('the API, for programs', '开放接口')}")
        if self._demo:
            story = words("what happened, as a table: wait two minutes", "演示过程列表:两分钟后查看")
            self._fact("", f"{self._command('demo-report')}   {story}")
        self._fact(words("data", "数据"), str(self._folder.root))
        self._fact(words("stop", "停止"), "Ctrl-C")
        self._say("")

    async def _show_first_password(self) -> None:
        """Show the password once, if it opens the door: a database that was given may have its own users."""
        password = self._folder.first_password.read_text(encoding="utf-8")
        credentials = json.dumps({"name": "admin", "password": password})
        status, _ = await post(self._folder.socket("gateway"), "/api/v1/auth/sign-in", credentials)
        if status == 200:
            note = self._words("shown this once; change it after signing in", "仅显示一次,登录后请修改")
            self._fact(self._words("user", "用户"), "admin")
            self._fact(self._words("password", "密码"), f"{password}   ({note})")
        else:
            note = self._words("as before; this database has its users already", "沿用数据库中已有的用户")
            self._fact(self._words("user", "用户"), note)
        self._folder.password_shown.touch(mode=0o600)
        self._folder.first_password.unlink()

    # -- while it runs ----------------------------------------------------------------------------

    async def _chores(self) -> None:
        low = False
        while True:
            await asyncio.sleep(CHORES_EVERY_S)
            for log in self._folder.logs.glob("*.log"):
                trim(log)
            free = shutil.disk_usage(self._folder.root).free
            if (free < DISK_LOW_BYTES) != low:
                low = not low
                if low:
                    self._line("", self._words(
                        f"disk almost full: {free >> 20} MB left at {self._folder.root}",
                        f"磁盘将满:{self._folder.root} 仅剩 {free >> 20} MB"))  # fmt: skip
                else:
                    self._line("", self._words("enough disk space again", "磁盘空间已恢复"))

    def started(self, name: str, pid: int, *, again: bool) -> None:
        """Say that a process was started again; first starts are said by *ready*."""
        if again:
            self._line(name, self._words(f"started again (process {pid})", f"已重新启动(进程 {pid})"))

    def ended(self, name: str, code: int, why: Bilingual, *, pause_s: float) -> None:
        """Say that a process ended by itself."""
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        text = self._words(
            f"ended unexpectedly ({how}); starting it again in {pause_s:.1f} s",
            f"意外退出({how}),{pause_s:.1f} 秒后重新启动",
        )
        self._line(name, f"{text}  {self._words(*why)}".rstrip())

    def stalled(self, name: str, why: str) -> None:
        """Say that a process makes no progress."""
        self._line(name, self._words(f"makes no progress, ending it: {why}", f"无响应,将其结束:{why}"))

    # -- the end ----------------------------------------------------------------------------------

    async def _stop_children(self) -> None:
        """Stop the field's readers before the field, everything before the database."""
        children, self._children = self._children, []
        for names in (("jobs", "suite"), ("watchdog", "field"), ("postgres",)):
            chosen = [child for child in children if child.name in names]
            kill_after_s = 50.0 if "postgres" in names else self._settings.drain_s + 5.0
            async with asyncio.TaskGroup() as group:
                for child in chosen:
                    group.create_task(self._stop(child, kill_after_s), name=f"stop {child.name}")
        if children and self._server is not None:
            self._server.stop()

    async def _stop(self, child: Child, kill_after_s: float) -> None:
        if not await child.stop(kill_after_s=kill_after_s):
            english = f"did not stop within {kill_after_s:.0f} s and was killed"
            self._line(child.name, self._words(english, f"{kill_after_s:.0f} 秒内未停止,已强制结束"))

    # -- lines ------------------------------------------------------------------------------------

    @property
    def _lang(self) -> str:
        return "zh" if self._words.chinese else "en"

    def _line(self, name: str, text: str) -> None:
        self._say(f"{time.strftime('%H:%M:%S')}  {name:<9} {text}".rstrip())

    def _command(self, name: str) -> str:
        """Return how a person in this terminal runs a command on this data folder."""
        program = sys.argv[0] if Path(sys.argv[0]).name == "wattring" else "wattring"
        given = os.environ.get("WATTRING_DATA_DIR")
        return f"WATTRING_DATA_DIR={shlex.quote(given)} {program} {name}" if given else f"{program} {name}"

    def _fact(self, label: str, text: str) -> None:
        self._say(f"  {label:<10}{text}")

    def _fail(self, problem: PlatformError | OSError) -> None:
        if isinstance(problem, OSError):  # of the file system: full, read-only, not ours
            place = "" if problem.filename is None else f"{problem.filename}: "
            text = f"{place}{problem.strerror or problem}"
        else:
            text = self._words(*problem.both)
        self._say(f"{self._words('cannot run', '无法运行')}: {text}")


def claim_port(host: str, port: int, setting: str = "PORT") -> int:
    """Return the port to use: the given one, or a free one for 0; ``setting`` chooses another.

    Raises:
        PortTaken: Another program listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise PortTaken(
                f"cannot listen on {host}:{port} ({exc.strerror}); choose another port with {setting}=…",
                message_zh=f"无法监听 {host}:{port}({exc.strerror});请用 {setting}=… 另选端口",
            ) from exc
        return int(probe.getsockname()[1])


def free_port(wanted: int) -> int:
    """Return the wanted port if nobody has it, else a free one."""
    try:
        return claim_port("127.0.0.1", wanted)
    except PortTaken:
        return claim_port("127.0.0.1", 0)


def _reason(body: str, field: str) -> str:
    try:
        answer = json.loads(body)
        reasons: Mapping[str, Any] = answer.get(field) or answer["reasons"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:200]
    return ", ".join(f"{name}: {text}" if name != "process" else str(text) for name, text in reasons.items())


def _kinds(reasons: Mapping[str, str]) -> dict[str, str]:
    """Return reasons without their numbers, so that a count that falls is not a line each time."""
    return {name: re.sub(r"\d+", "#", reason) for name, reason in reasons.items()}


def _listed(reasons: Mapping[str, str]) -> str:
    """Return reasons with the services that share one named together."""
    together: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        together.setdefault(reason, []).append(name)
    text = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in together.items())
    return text if len(text) <= REASONS_MAX else f"{text[:REASONS_MAX]}…"


def _shown_host(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared


def _leaves(group: BaseExceptionGroup[PlatformError | OSError]) -> list[PlatformError | OSError]:
    found: list[PlatformError | OSError] = []
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found
