"""``wattring-fieldsim``: simulated meters, breakers and a supervision centre from the command line."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import orjson
import typer

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, PlatformError, Unavailable
from libs.common.log import setup_logging
from libs.common.profiles import Protocol
from libs.common.registry.packets import parse_packet
from libs.common.registry.rules import split_host_port
from libs.common.settings import load_common
from libs.fieldsim.aep.platform import Account, DevicePlatform, Oddities
from libs.fieldsim.breaker import MOTOR_DELAY_S, Breaker
from libs.fieldsim.cards import CardPlatform, SimulatedCard
from libs.fieldsim.control_api import ControlServer, answer_facts
from libs.fieldsim.demo import HISTORY_HOURS, HISTORY_PERIOD_S, Wishes, run_demo
from libs.fieldsim.device import modbus_profile, spoken_profile
from libs.fieldsim.dtu import Dialling, Terminal
from libs.fieldsim.electrical import Load, Mains
from libs.fieldsim.events import EventLog
from libs.fieldsim.faults import FaultBoard, parse_order
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import PASSWORD, DevicePart, FieldFile, LinePart, LoadPart, StoryPart, load_field_file
from libs.fieldsim.history import past_reports
from libs.fieldsim.modbus import Absent, Framing
from libs.fieldsim.mqtt import BrokerPlace, MqttMeter, MqttMeters
from libs.fieldsim.outstation import Outstation, Station, station_profile
from libs.fieldsim.run import announcer, raise_file_limit, serve, stop_on_signals
from libs.fieldsim.sc.calls import NAMES_NO_UNIT, UnitCall, commands
from libs.fieldsim.sc.client import UnitClient
from libs.fieldsim.sc.command import check
from libs.fieldsim.sc.faults import parse_order as parse_sc_order
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import spec_named
from libs.fieldsim.sockets import SmartSocket, SmartSockets

SITE = "site-1"
LOOPBACK = "127.0.0.1"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Simulated field for tests and integrators: Modbus TCP meters and breakers fed from real measured curves, "
    "a small supervision centre (SC) and a device platform (AEP).  "
    "模拟现场：由实测曲线驱动的 Modbus TCP 电表、断路器，以及小型监控中心和物联平台。",
)

PortOption = Annotated[int, typer.Option(help="TCP port, 0 is a free one; further lines take the next ports.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on. It has no protection: keep it on loopback.")]
UnitsOption = Annotated[str, typer.Option(help="Unit ids behind each port: 1, 1-10 or 1,2,7.")]
LinesOption = Annotated[int, typer.Option(min=1, help="Ports to open, each with devices of its own.")]
FaultOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Fault of every device, may be repeated: kind[:name=value,...] with after_s, duration_s, every_s. "
        "Kinds: silent, slow, exception, garbage, drop, stale, frozen, nan, sag, clock, ignore_command, bounce, "
        "locked, welded, alarm, trip."
    ),
]
ControlOption = Annotated[int, typer.Option(help="Port of the control API on loopback, 0 is a free one.")]
ReadyOption = Annotated[Path | None, typer.Option(help="Write the description here once everything listens.")]
FramingOption = Annotated[Framing, typer.Option(help="tcp: Modbus TCP; rtu: RTU frames over TCP.")]


@app.command()
def demo(
    data_dir: Annotated[Path, typer.Option(help="Folder for state, ports, journal, registry file and past reports.")],
    ready_file: ReadyOption = None,
    field: Annotated[Path | None, typer.Option(help="A field file of your own; none: the shipped one.")] = None,
    sc_port: Annotated[int | None, typer.Option(help="Port of the SC; none: the last run's, else a free one.")] = None,
    control_port: Annotated[int | None, typer.Option(help="Port of the control API; none: as above.")] = None,
    unit_url: Annotated[str | None, typer.Option(help="Where the SC finds every unit's FSUService.")] = None,
    strict: Annotated[bool, typer.Option(help="Let the SC refuse what breaks a rule, not only record it.")] = False,
    history_hours: Annotated[float, typer.Option(min=0, help="Past reports of the first start. [h]")] = HISTORY_HOURS,
    history_period_s: Annotated[int, typer.Option(min=1, help="Distance of two of them. [s]")] = HISTORY_PERIOD_S,
) -> None:
    """Run the demonstration: three stations, ten devices on four ports, an SC, a voltage sag every five minutes.

    演示现场：三个局站、十台设备、一个监控中心，每五分钟一次电压暂降。
    """
    wishes = Wishes(
        data_dir=data_dir,
        ready_file=ready_file,
        sc_port=sc_port,
        control_port=control_port,
        unit_url=unit_url,
        strict=strict,
        history_hours=history_hours,
        history_period_s=history_period_s,
    )
    file = load_field_file(field)
    _run(lambda stop: run_demo(file, wishes, clock=SystemClock(), stop=stop))


@app.command()
def meter(
    profile: Annotated[str, typer.Option(help="Name of a shipped profile, or path of a YAML file.")] = "eastron_sdm630",
    port: PortOption = 15020,
    units: UnitsOption = "1",
    lines: LinesOption = 1,
    host: HostOption = LOOPBACK,
    framing: FramingOption = Framing.TCP,
    constant_kw: Annotated[float, typer.Option(min=0, help="Power each device always measures. [kW]")] = 1.0,
    gain: Annotated[float, typer.Option(min=0, help="Share of the measured curve (mean 1.9 kW) per phase.")] = 0.2,
    ct_ratio: Annotated[float, typer.Option(min=0.001, help="Current transformer ratio.")] = 1.0,
    pt_ratio: Annotated[float, typer.Option(min=0.001, help="Voltage transformer ratio.")] = 1.0,
    pace_s: Annotated[float, typer.Option(min=0, help="Time one answer keeps the serial line busy. [s]")] = 0.0,
    absent: Annotated[Absent, typer.Option(help="Requests for unknown units.")] = Absent.EXCEPTION,
    fault: FaultOption = None,
    control_port: ControlOption = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run meters (or any other Modbus device of a profile) that follow the real measured curve.

    按实测曲线运行电表（或任意 Modbus 模板的设备）。
    """
    file = _many(
        units=_unit_ids(units),
        lines=[
            LinePart(id=f"line-{n + 1}", port=_nth_port(port, n), framing=framing, absent=absent, pace_s=pace_s)
            for n in range(lines)
        ],
        faults=fault or [],
        load=lambda n: LoadPart(id=f"load-{n}", constant_kw=constant_kw, gain=gain, shift_h=n / 60),
        device=lambda n, line, unit: DevicePart(
            id=f"meter-{n}",
            site=SITE,
            line=line,
            unit=unit,
            profile=profile,
            loads=(f"load-{n}",),
            ct_ratio=ct_ratio,
            pt_ratio=pt_ratio,
        ),
        single_phase=_is_single_phase(profile),
    )
    _run_field(file, host, control_port, ready_file, state=None)


@app.command()
def breaker(
    profile: Annotated[str, typer.Option(help="Name of a shipped profile, or path of a YAML file.")] = "lx47le_125",
    port: PortOption = 15030,
    units: UnitsOption = "1",
    lines: LinesOption = 1,
    host: HostOption = LOOPBACK,
    framing: FramingOption = Framing.TCP,
    power_kw: Annotated[float, typer.Option(min=0, help="What each breaker feeds. [kW]")] = 0.9,
    motor_delay_s: Annotated[float, typer.Option(min=0, help="From command to position. [s]")] = MOTOR_DELAY_S,
    poles: Annotated[int, typer.Option(min=1, max=3, help="1 or 3.")] = 3,
    meter_profile: Annotated[
        str | None, typer.Option(help="Put a meter of this profile behind each breaker, at unit + 100.")
    ] = None,
    state_file: Annotated[Path | None, typer.Option(help="Keep positions here; a second run continues.")] = None,
    fault: FaultOption = None,
    control_port: ControlOption = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run breakers with a motor: command, delay, feedback, local lock, trips.

    运行电动断路器：命令、动作延时、位置反馈、就地锁定、跳闸。
    """
    if poles == 2:
        raise typer.BadParameter("a breaker has 1 or 3 poles", param_hint="--poles")
    unit_ids = _unit_ids(units)
    file = _many(
        units=unit_ids,
        lines=[LinePart(id=f"line-{n + 1}", port=_nth_port(port, n), framing=framing) for n in range(lines)],
        faults=fault or [],
        load=lambda n: LoadPart(id=f"load-{n}", constant_kw=power_kw, gain=0.02, shift_h=n / 60),
        device=lambda n, line, unit: DevicePart(
            id=f"breaker-{n}",
            site=SITE,
            line=line,
            unit=unit,
            profile=profile,
            loads=(f"load-{n}",),
            poles=1 if poles == 1 else 3,
            motor_delay_s=motor_delay_s,
        ),
        single_phase=poles == 1,
        meter_profile=meter_profile,
    )
    _run_field(file, host, control_port, ready_file, state=state_file)


@app.command()
def stream(
    device: Annotated[
        list[str],
        typer.Option(
            help="PROFILE@ADDRESS, may be repeated: dlt645_2007_meter@1234, dlt645_2007_breaker@5678, "
            "cjt188_water_meter@112233445566, yd1363_rectifier@1, eastron_sdm120@7 (a Modbus RTU unit) ..."
        ),
    ],
    port: Annotated[int, typer.Option(help="TCP port, 0 is a free one.")] = 15040,
    pty: Annotated[
        Path | None, typer.Option(help="Link to a pseudo terminal that the line is on, instead of a port.")
    ] = None,
    host: HostOption = LOOPBACK,
    power_kw: Annotated[float, typer.Option(min=0, help="Power behind each device. [kW]")] = 1.0,
    password: Annotated[str, typer.Option(help="DL/T 645: six digits that a control has to bring.")] = PASSWORD,
    blocks: Annotated[bool, typer.Option(help="DL/T 645: answer blocks of items.")] = True,
    clock_offset_s: Annotated[float, typer.Option(help="DL/T 645: how wrong the clocks are. [s]")] = 0.0,
    state_file: Annotated[Path | None, typer.Option(help="Keep positions here; a second run continues.")] = None,
    fault: FaultOption = None,
    control_port: ControlOption = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run a line that several protocols share: DL/T 645, CJ/T 188, YD/T 1363.3 and Modbus RTU, over TCP or a terminal.

    运行多协议共用的线路：DL/T 645、CJ/T 188、电总协议与 Modbus RTU。
    """
    loads, devices = [], []
    for number, text in enumerate(device, start=1):
        profile, at, address = text.rpartition("@")
        found = spoken_profile(profile) if at else None
        if found is None or (found.protocol is Protocol.MODBUS and not address.isdecimal()):
            raise typer.BadParameter(f"{text!r} is not PROFILE@ADDRESS", param_hint="--device")
        is_modbus = found.protocol is Protocol.MODBUS
        phases = "a" if found.is_single_phase else "abc"
        loads.append(LoadPart(id=f"load-{number}", phases=phases, constant_kw=power_kw, gain=0.02, shift_h=number / 60))
        devices.append(
            DevicePart(
                id=f"{found.category.replace('_', '-')}-{number}",
                site=SITE,
                line="line-1",
                unit=int(address) if is_modbus else None,
                address="" if is_modbus else address,
                profile=profile,
                loads=(f"load-{number}",),
                password=password,
                blocks=blocks,
                clock_offset_s=clock_offset_s,
            )
        )
    orders = [parse_order(text) for text in fault or []]
    file = FieldFile(
        schema="field/1",
        loads=tuple(loads),
        lines=(LinePart(id="line-1", port=port, framing=Framing.STREAM, pty=pty),),
        devices=tuple(devices),
        story=tuple(StoryPart(device=part.id, fault=order) for part in devices for order in orders),
    )
    _run_field(file, host, control_port, ready_file, state=state_file)


app.command("sc-check")(check)


@app.command()
def sc(
    port: Annotated[int, typer.Option(help="TCP port of SCService, 0 is a free one.")] = 15080,
    host: HostOption = LOOPBACK,
    dialect: Annotated[str, typer.Option(help="T: China Tower 2016; Y: YD/T draft of 2024.")] = "T",
    journal: Annotated[Path | None, typer.Option(help="Journal, JSON lines; the next run remembers from it.")] = None,
    centre_ip: Annotated[str, typer.Option(help="SCIP of LOGIN_ACK: where units are told to send events.")] = LOOPBACK,
    strict: Annotated[
        bool, typer.Option(help="Refuse what breaks a rule (180 s, serial ...), not only record it.")
    ] = False,
    unit_url: Annotated[
        list[str] | None,
        typer.Option(help="URL of a unit's FSUService: UNITID=URL, or URL for all; none: where its LOGIN says."),
    ] = None,
    info_every_s: Annotated[float, typer.Option(min=0, help="Poll the heartbeat, 0 never. [s]")] = 60.0,
    data_every_s: Annotated[float, typer.Option(min=0, help="Poll GET_DATA, 0 never. [s]")] = 0.0,
    time_every_s: Annotated[float, typer.Option(min=0, help="Tell the time, 0 at LOGIN only. [s]")] = 0.0,
    clock_offset_s: Annotated[float, typer.Option(help="How wrong the SC's clock is. [s]")] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="kind[:command=SEND_ALARM,count=3,delay_s=30,taken=false], may be repeated; count=all for ever. "
            "Kinds: no_answer, late, result_0, garbage, wrong_code, http_500, drop."
        ),
    ] = None,
    control_port: ControlOption = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run a supervision centre of the B interface that checks strictly and keeps a journal; sc-check examines a unit.

    运行 B 接口监控中心（铁塔2016或2024草案方言），严格校验并记录全部报文。
    """
    centre = SupervisionCentre(
        clock=SystemClock(),
        policy=Policy(
            spec=spec_named(dialect),
            centre_ip=centre_ip,
            strict=strict,
            info_every_s=info_every_s or None,
            data_every_s=data_every_s or None,
            time_every_s=time_every_s or None,
            unit_urls=_unit_urls(unit_url or []),
            clock_offset_s=clock_offset_s,
        ),
        journal_path=journal,
        host=host,
        port=port,
    )
    for text in fault or []:
        centre.faults.place(parse_sc_order(text))
    control = ControlServer(control_port)

    async def run(stop: asyncio.Event) -> None:
        await serve(
            field=None,
            centre=centre,
            control=control,
            describe=lambda: {"sc_url": centre.url, "control_url": control.url},
            announce=announcer(ready_file),
            stop=stop,
        )

    _run(run)


@app.command()
def aep(
    port: Annotated[int, typer.Option(help="TCP port of the API, 0 is a free one.")] = 15090,
    host: HostOption = LOOPBACK,
    push_url: Annotated[str | None, typer.Option(help="Where to push; none: nowhere.")] = None,
    devices: Annotated[int, typer.Option(min=1, max=9999, help="Breakers: dev0001, dev0002 …")] = 1,
    report_every_s: Annotated[float, typer.Option(min=0, help="Each device reports this often, 0 never. [s]")] = 60.0,
    tenant: Annotated[str, typer.Option(help="tenantId of the pushes.")] = "20001234",
    product: Annotated[str, typer.Option(help="productId.")] = "10000001",
    app_key: Annotated[str, typer.Option(help="Key of the application that may call.")] = "demoAppKey01",
    app_secret: Annotated[str, typer.Option(help="Its secret.", show_default=False)] = "demoSecret01",  # noqa: S107  # of the simulation
    master_key: Annotated[str, typer.Option(help="MasterKey of the product.", show_default=False)] = "demoMasterKey",
    copies: Annotated[int, typer.Option(min=1, help="How often each message is pushed.")] = 1,
    text_numbers: Annotated[bool, typer.Option(help="Push numbers as text, the product id as number.")] = False,
    out_of_order: Annotated[bool, typer.Option(help="Push results of commands in the wrong order.")] = False,
    clock_offset_s: Annotated[float, typer.Option(help="How wrong the platform's clock is. [s]")] = 0.0,
    ready_file: ReadyOption = None,
) -> None:
    """Run a device platform (CTWing AEP): signed API, command states, pushes with their oddities.

    模拟天翼物联平台（AEP）：校验签名、指令状态、带各种异常的数据推送。
    """
    platform = DevicePlatform(
        clock=SystemClock(),
        account=Account(tenant=tenant, product=product, app_key=app_key, app_secret=app_secret, master_key=master_key),
        devices=devices,
        push_url=push_url,
        report_every_s=report_every_s,
        clock_offset_s=clock_offset_s,
        oddities=Oddities(
            copies=copies,
            numbers_as_text=text_numbers,
            product_as_number=text_numbers,
            results_out_of_order=out_of_order,
        ),
        host=host,
        port=port,
    )
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        try:
            await platform.start()
        except OSError as exc:
            raise Unavailable(f"cannot listen: {exc.strerror}", message_zh=f"无法监听端口：{exc.strerror}") from exc
        working = asyncio.create_task(platform.run(), name="aep")
        try:
            announce({"aep_url": platform.url, "devices": list(platform.devices)})
            await stop.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])
            await platform.stop()

    _run(run)


@app.command()
def station(
    port: Annotated[int, typer.Option(help="TCP port of 104, 0 is a free one.")] = 2404,
    host: HostOption = LOOPBACK,
    stations: Annotated[int, typer.Option(min=1, max=1000, help="Breakers with meter; common addresses 1, 2 …")] = 1,
    profile: Annotated[
        str, typer.Option(help="How each looks to a master: a shipped profile of iec60870-5, or a YAML file.")
    ] = "iec60870_breaker_example",
    power_kw: Annotated[float, typer.Option(min=0, help="What each breaker feeds. [kW]")] = 0.9,
    motor_delay_s: Annotated[float, typer.Option(min=0, help="From command to position. [s]")] = MOTOR_DELAY_S,
    zone: Annotated[str, typer.Option(help="What the stations' clocks are set to.")] = "Asia/Shanghai",
    fault: Annotated[
        list[str] | None,
        typer.Option(help="As of a breaker, may be repeated: silent, drop, ignore_command, sag, locked, trip …"),
    ] = None,
    ready_file: ReadyOption = None,
) -> None:
    """Run a telecontrol station of IEC 60870-5-104: interrogation, changes with time tags, counters, commands.

    模拟 104 厂站：总召、带时标变位、电度召唤、遥控（选择/执行）。
    """
    board, events, clock = FaultBoard(), EventLog(), SystemClock()
    breakers = {
        n: Breaker(
            f"breaker-{n}",
            modbus_profile("lx47le_125"),
            load=Load(f"load-{n}", phases="abc", constant_kw=power_kw, gain=0.02, shift_s=60.0 * n),
            mains=Mains(),
            faults=board,
            events=events,
            motor_delay_s=motor_delay_s,
        )
        for n in range(1, stations + 1)
    }
    for made in breakers.values():
        for text in fault or []:
            board.place(made.device_id, parse_order(text), clock.now().timestamp())
    seen_as = station_profile(profile)
    outstation = Outstation(
        {n: Station(made, seen_as) for n, made in breakers.items()},
        clock=clock,
        faults=board,
        host=host,
        port=port,
        zone=zone,
    )
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        try:
            await outstation.start()
        except OSError as exc:
            raise Unavailable(f"cannot listen: {exc.strerror}", message_zh=f"无法监听端口：{exc.strerror}") from exc
        working = asyncio.create_task(outstation.run(), name="station")
        try:
            announce({"endpoint": f"{host}:{outstation.port}", "common_addresses": list(breakers), "profile": profile})
            await stop.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])
            await outstation.stop()

    _run(run)


@app.command()
def cards(
    number: Annotated[list[str], typer.Option(help="Access number of a card: NUMBER or NUMBER=STATE; repeatable.")],
    app_key: Annotated[str, typer.Option(help="AppKey of the account.")] = "demoAppKey",
    shared: Annotated[str, typer.Option("--secret", help="Secret of the account.")] = "demoSecretKey",
    host: HostOption = LOOPBACK,
    port: Annotated[int, typer.Option(help="TCP port, 0 is a free one.")] = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run a card platform (CMP, new generation) that checks signatures and tells what its cards are set to.

    模拟卡管理平台（新版 CMP）：校验签名，按设定返回卡状态。STATE 为 1 至 7，5 为停机。
    """
    known = {}
    for text in number:
        name, _, state = text.partition("=")
        if not name.isdigit() or state not in ("", "1", "2", "3", "4", "5", "6", "7"):
            raise typer.BadParameter(f"expected NUMBER or NUMBER=1…7, found {text!r}")
        known[name] = SimulatedCard(state=state or "4")
    platform = CardPlatform(app_key=app_key, secret=shared, host=host, port=port, cards=known)
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        await platform.start()
        try:
            announce({"url": platform.url, "numbers": list(known)})
            await stop.wait()
        finally:
            await platform.stop()

    _run(run)


@app.command()
def mqtt(
    broker: Annotated[str, typer.Option(help="Where the broker is, HOST:PORT.")] = "127.0.0.1:1883",
    meters: Annotated[int, typer.Option(min=1, max=2000, help="Devices: SN1, SN2 …, each a client of its own.")] = 1,
    period_s: Annotated[float, typer.Option(min=0.1, help="Between two reports of one device. [s]")] = 60.0,
    power_kw: Annotated[float, typer.Option(min=0, help="What each breaker feeds. [kW]")] = 0.9,
    motor_delay_s: Annotated[float, typer.Option(min=0, help="From command to position. [s]")] = MOTOR_DELAY_S,
    user: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="As of a breaker, may be repeated: silent, drop, clock, ignore_command, sag, locked, trip …"),
    ] = None,
    ready_file: ReadyOption = None,
) -> None:
    """Run breakers with a meter that speak JSON over MQTT, as the profile example_mqtt_meter has it.

    模拟经 MQTT 上报 JSON 的断路器电表（模板 example_mqtt_meter），离线时缓存并补报。
    """
    host, port = _place(broker, "broker")
    board, clock = FaultBoard(), SystemClock()
    made = _telling_breakers(meters, "SN", board, power_kw=power_kw, motor_delay_s=motor_delay_s, faults=fault)
    place = BrokerPlace(
        host=host,
        port=port,
        user=user,
        password=None if password_file is None else password_file.read_text(encoding="utf-8").strip(),
    )
    field = MqttMeters(
        [MqttMeter(serial, device) for serial, device in made.items()],
        broker=place, clock=clock, faults=board, period_s=period_s,
    )  # fmt: skip
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        working = asyncio.create_task(field.run(), name="mqtt meters")
        try:
            announce({"broker": broker, "addresses": list(made), "profile": "example_mqtt_meter"})
            await stop.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])

    _run(run)


@app.command()
def socket(
    broker: Annotated[str, typer.Option(help="Where the broker is, HOST:PORT.")] = "127.0.0.1:1883",
    sockets: Annotated[int, typer.Option(min=1, max=2000, help="Devices: plug-1, plug-2 …")] = 1,
    period_s: Annotated[float, typer.Option(min=0.1, help="Between two reports of one socket. [s]")] = 60.0,
    power_kw: Annotated[float, typer.Option(min=0, help="What is plugged into each. [kW]")] = 0.1,
    user: Annotated[str | None, typer.Option(help="User name at the broker.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password.")] = None,
    fault: Annotated[list[str] | None, typer.Option(help="May be repeated: silent, ignore_command.")] = None,
    ready_file: ReadyOption = None,
) -> None:
    """Run smart sockets that switch and meter themselves over MQTT, as the profile shelly_gen2_plug has it.

    模拟经 MQTT 自行通断并计量的智能插座（模板 shelly_gen2_plug）。
    """
    host, port = _place(broker, "broker")
    board, clock = FaultBoard(), SystemClock()
    made = [SmartSocket(f"plug-{number}", power_kw=power_kw) for number in range(1, sockets + 1)]
    for one in made:
        for text in fault or []:
            board.place(one.prefix, parse_order(text), clock.now().timestamp())
    password = None if password_file is None else password_file.read_text(encoding="utf-8").strip()
    place = BrokerPlace(host=host, port=port, user=user, password=password)
    field = SmartSockets(made, broker=place, clock=clock, faults=board, period_s=period_s)
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        working = asyncio.create_task(field.run(), name="smart sockets")
        try:
            announce({"broker": broker, "addresses": [one.prefix for one in made], "profile": "shelly_gen2_plug"})
            await stop.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])

    _run(run)


@app.command()
def opcua(
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 4840,
    host: HostOption = LOOPBACK,
    meters: Annotated[int, typer.Option(min=1, max=1000, help="Breakers with meter: m1, m2 …")] = 1,
    power_kw: Annotated[float, typer.Option(min=0, help="What each breaker feeds. [kW]")] = 0.9,
    motor_delay_s: Annotated[float, typer.Option(min=0, help="From command to position. [s]")] = MOTOR_DELAY_S,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="As of a breaker, may be repeated: frozen, ignore_command, sag, locked, trip …"),
    ] = None,
    ready_file: ReadyOption = None,
) -> None:
    """Run an OPC UA server with breakers and their meters, as the profile example_opcua_meter has them.

    模拟 OPC UA 服务器中的断路器与电表（模板 example_opcua_meter）。
    """
    from libs.fieldsim.opcua import OpcUaPlant  # its library takes long to load, and no other command needs it

    board, clock = FaultBoard(), SystemClock()
    made = _telling_breakers(meters, "m", board, power_kw=power_kw, motor_delay_s=motor_delay_s, faults=fault)
    plant = OpcUaPlant(made, clock=clock, faults=board, host=host, port=port)
    announce = announcer(ready_file)

    async def run(stop: asyncio.Event) -> None:
        try:
            await plant.start()
        except OSError as exc:
            raise Unavailable(f"cannot listen: {exc.strerror}", message_zh=f"无法监听端口：{exc.strerror}") from exc
        working = asyncio.create_task(plant.run(), name="opcua plant")
        try:
            announce({"endpoint": plant.endpoint, "addresses": list(made), "profile": "example_opcua_meter"})
            await stop.wait()
        finally:
            working.cancel()
            await asyncio.wait([working])
            await plant.stop()

    _run(run)


@app.command()
def dtu(
    server: Annotated[str, typer.Option(help="Where the terminals dial to, HOST:PORT.")],
    registration: Annotated[
        str, typer.Option(help="Registration packet: text, or hex: and bytes; {n} is the terminal's number.")
    ] = "DTU{n}",
    count: Annotated[int, typer.Option(min=1, help="Terminals.")] = 1,
    slave: Annotated[
        str | None,
        typer.Option(help="What is on the pair of each, HOST:PORT (a meter with --framing rtu); none: nothing."),
    ] = None,
    heartbeat: Annotated[str, typer.Option(help="Heartbeat packet, as above; empty: none.")] = "",
    heartbeat_every_s: Annotated[float, typer.Option(min=0.1, help="Between two of them. [s]")] = 60.0,
    redial_s: Annotated[float, typer.Option(min=0, help="Pause before a terminal dials again. [s]")] = 5.0,
    latency_s: Annotated[float, typer.Option(min=0, help="One way through the network. [s]")] = 0.0,
    control_port: ControlOption = 0,
    ready_file: ReadyOption = None,
) -> None:
    """Run data terminals (DTU) that dial in, register and carry bytes to a simulated slave.

    运行 DTU：主动拨入、发送注册包和心跳包，并透传到模拟从站。
    """
    dialling = Dialling(
        [
            Terminal(
                server=_place(server, "--server"),
                registration=_packet(registration.replace("{n}", str(n)), "--registration"),
                slave=None if slave is None else _place(slave, "--slave"),
                heartbeat=_packet(heartbeat, "--heartbeat") if heartbeat else b"",
                heartbeat_every_s=heartbeat_every_s,
                redial_s=redial_s,
                latency_s=latency_s,
            )
            for n in range(1, count + 1)
        ],
        clock=SystemClock(),
    )
    control = ControlServer(control_port)

    async def run(stop: asyncio.Event) -> None:
        running = asyncio.create_task(dialling.run(), name="terminals")
        try:
            await serve(
                field=None,
                centre=None,
                control=control,
                describe=lambda: {"control_url": control.url, "terminals": count},
                announce=announcer(ready_file),
                stop=stop,
            )
        finally:
            running.cancel()
            await asyncio.wait([running])

    _run(run)


@app.command()
def history(
    field: Annotated[Path | None, typer.Option(help="Field file; none: the demonstration.")] = None,
    hours: Annotated[float, typer.Option(min=0, help="Length. [h]")] = HISTORY_HOURS,
    period_s: Annotated[int, typer.Option(min=1, help="Distance of two reports of a device. [s]")] = 60,
    until: Annotated[datetime | None, typer.Option(help="End, exclusive, UTC; none: now.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device, may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="File; none: standard output.")] = None,
) -> None:
    """Write past reports as JSON lines, consistent with the live registers to the last digit.

    按行输出历史上报（JSON），与实时表底完全一致。
    """
    parts = Field(load_field_file(field), clock=SystemClock())
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    unknown = set(device or ()) - set(parts.devices)
    if unknown:
        raise InvalidInput(
            f"no device {', '.join(sorted(unknown))} in the field; there are {', '.join(parts.devices)}",
            message_zh=f"现场中没有设备 {', '.join(sorted(unknown))}",
        )
    reports = past_reports(parts, until=end, hours=hours, period_s=period_s, devices=device or ())
    with sys.stdout.buffer if out is None else out.open("wb") as target:
        for report in reports:
            target.write(report.to_json() + b"\n")


@app.command("poll-unit")
def poll_unit(
    url: Annotated[str, typer.Argument(help="The unit's service, such as http://10.0.0.5:8080/services/FSUService")],
    unit_id: Annotated[str, typer.Argument(help="FsuId (T, 14 characters) or SUID (Y, 17).")],
    command: Annotated[
        str | None,
        typer.Argument(
            help="T: get-data, get-hisdata, get-fsuinfo, get-logininfo, get-ftp, get-threshold, set-threshold, "
            "set-point, time-check, set-fsureboot. Y: get-data, ask-todayhisdata, get-suinfo, get-activealarm, "
            "get-suftp, get-spconfigoption, set-spconfigoption, set-rmctrlcmd, set-time, set-sureboot. "
            "None: the heartbeat."
        ),
    ] = None,
    dialect: Annotated[str, typer.Option(help="T: China Tower 2016; Y: YD/T draft of 2024.")] = "T",
    point: Annotated[
        list[str] | None, typer.Option(help="DEVICE:POINT, may be repeated; none: everything, by the wildcard.")
    ] = None,
    value: Annotated[
        float, typer.Option(help="Of set-point, set-rmctrlcmd and set-threshold, for the one --point.")
    ] = 0.0,
    option: Annotated[str, typer.Option(help="Of set-spconfigoption, for the one --point.")] = "",
    last_h: Annotated[float, typer.Option(min=0, help="Of get-hisdata: how far back. [h]")] = 2.0,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For the answer. [s]")] = 5.0,
    raw: Annotated[bool, typer.Option(help="Print the payload as it came.")] = False,
) -> None:
    """Call a unit (FSU/SU) as a supervision centre does and say what is wrong with its answer.

    像监控中心一样调用一台 FSU，并指出应答中的问题。
    """
    spec = spec_named(dialect)
    asked = [pair.partition(":") for pair in point or []]
    points: dict[str, tuple[str, ...]] = {}
    for device_id, _, point_id in asked:
        points[device_id] = (*points.get(device_id, ()), point_id or "9" * spec.point_digits)
    now = datetime.now(UTC)
    name = spec.heartbeat if command is None else command.upper().replace("-", "_")
    if name not in commands(spec):
        raise typer.BadParameter(f"unknown command {command}", param_hint="COMMAND")
    call = UnitCall(
        command=name,
        points=points or None,
        device_id=asked[0][0] if asked else "",
        point_id=asked[0][2] if asked else "",
        value=value,
        option_id=option,
        start=now - timedelta(hours=last_h),
        end=now,
    )

    async def ask() -> int:
        async with UnitClient(timeout_s, spec) as client:
            expected = None if name in NAMES_NO_UNIT else unit_id
            answer = await client.call(url, name, call.payload(spec, unit_id, now), unit_id=expected)
        text = answer.text if raw else orjson.dumps(answer_facts(answer), option=orjson.OPT_INDENT_2).decode()
        sys.stdout.write(text + "\n")
        return 0 if answer.result == "1" and not answer.findings else 1

    raise typer.Exit(asyncio.run(ask()))


def main() -> None:
    """Run the command line; errors that a person can mend are one line in English and one in Chinese."""
    try:
        app()
    except PlatformError as exc:
        sys.stderr.write(f"wattring-fieldsim: {exc.message}\n")
        if exc.message_zh:
            sys.stderr.write(f"wattring-fieldsim: {exc.message_zh}\n")
        raise SystemExit(1) from exc


def _run_field(file: FieldFile, host: str, control_port: int, ready_file: Path | None, *, state: Path | None) -> None:
    parts = Field(file, clock=SystemClock(), state_path=state, host=host)
    control = ControlServer(control_port)

    def describe() -> Mapping[str, object]:
        return {
            "control_url": control.url,
            "lines": parts.endpoints,
            "devices": [
                {
                    "device_id": part.id,
                    "line_id": part.line,
                    "unit": part.unit,
                    "address": part.place,
                    "profile": part.profile,
                }
                for part in file.devices
            ],
        }

    async def run(stop: asyncio.Event) -> None:
        await serve(
            field=parts, centre=None, control=control, describe=describe, announce=announcer(ready_file), stop=stop
        )

    _run(run)


def _run(main_of: Callable[[asyncio.Event], Coroutine[object, object, None]]) -> None:
    setup_logging(load_common(), "fieldsim")
    raise_file_limit()

    async def until_stopped() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await main_of(stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(until_stopped())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop where it is; a third of the CPU of asyncio's own loop with a thousand connections."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return None
    return uvloop.new_event_loop


def _many(
    *,
    units: list[int],
    lines: list[LinePart],
    faults: list[str],
    load: Callable[[int], LoadPart],
    device: Callable[[int, str, int], DevicePart],
    single_phase: bool,
    meter_profile: str | None = None,
) -> FieldFile:
    """Return a field with one load and one device per unit and line."""
    loads: list[LoadPart] = []
    devices: list[DevicePart] = []
    for line in lines:
        for unit in units:
            number = len(loads) + 1
            made = load(number)
            loads.append(made.model_copy(update={"phases": "a"}) if single_phase else made)
            devices.append(device(number, line.id, unit))
            if meter_profile is not None:
                devices.append(
                    DevicePart(
                        id=f"meter-{number}",
                        site=SITE,
                        line=line.id,
                        unit=unit + 100,
                        profile=meter_profile,
                        loads=(f"load-{number}",),
                    )
                )
    orders = [parse_order(text) for text in faults]
    return FieldFile(
        schema="field/1",
        loads=tuple(loads),
        lines=tuple(lines),
        devices=tuple(devices),
        story=tuple(StoryPart(device=part.id, fault=order) for part in devices for order in orders),
    )


def _telling_breakers(
    count: int, prefix: str, board: FaultBoard, *, power_kw: float, motor_delay_s: float, faults: list[str] | None
) -> dict[str, Breaker]:
    """Return breakers by the names that they are known by, with the faults that were ordered."""
    events, now_s = EventLog(), SystemClock().now().timestamp()
    made = {
        f"{prefix}{n}": Breaker(
            f"{prefix}{n}",
            modbus_profile("lx47le_125"),
            load=Load(f"load-{n}", phases="abc", constant_kw=power_kw, gain=0.02, shift_s=60.0 * n),
            mains=Mains(),
            faults=board,
            events=events,
            motor_delay_s=motor_delay_s,
        )
        for n in range(1, count + 1)
    }
    for name in made:
        for text in faults or []:
            board.place(name, parse_order(text), now_s)
    return made


def _unit_ids(text: str) -> list[int]:
    ids: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            ids += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not 1, 1-10 or 1,2,7", param_hint="--units") from None
    if not ids or min(ids) < 0 or max(ids) > 255 or len(set(ids)) != len(ids):
        raise typer.BadParameter(f"{text!r}: unit ids are 0 to 255, each once", param_hint="--units")
    return ids


def _unit_urls(texts: list[str]) -> dict[str, str]:
    urls: dict[str, str] = {}
    for text in texts:
        unit_id, separator, url = text.partition("=")
        urls.update({unit_id: url} if separator and "/" not in unit_id else {"*": text})
    return urls


def _place(text: str, option: str) -> tuple[str, int]:
    try:
        return split_host_port(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint=option) from None


def _packet(text: str, option: str) -> bytes:
    try:
        return parse_packet(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r}: {exc}", param_hint=option) from None


def _nth_port(port: int, number: int) -> int:
    return port + number if port else 0


def _is_single_phase(profile: str) -> bool:
    return modbus_profile(profile).is_single_phase


if __name__ == "__main__":
    main()
