"""An OPC UA server with breakers and their meters, as the profile ``example_opcua_meter`` has them.

Each is an object of the namespace ``urn:wattring:fieldsim`` whose variables are named after it: ``m1.Ua``. What is
written to ``m1.Close`` moves its breaker. Written on asyncua's server; the platform is tried against another one too.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from asyncua import ua
from asyncua.common.callback import CallbackService, CallbackType, ServerItemCallback
from asyncua.common.node import Node
from asyncua.server.server import Server

from libs.common.clock import Clock
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.faults import FaultBoard, Frozen
from libs.fieldsim.telling import shown

# The library tells of every node of the standard's address space that it makes: 400 kB at each start.
logging.getLogger("asyncua").setLevel(logging.WARNING)

NAMESPACE = "urn:wattring:fieldsim"
LOOK_S = 0.2
"""How often values are brought up to date. [s]"""


class OpcUaPlant:
    """A server and the breakers in it.

    Args:
        devices: By name.
        clock: What they are asked at.
        faults: Looked at before values are brought up to date: frozen; those of breakers act too.
        host: Where to listen.
        port: Its port.
    """

    def __init__(
        self,
        devices: Mapping[str, Breaker],
        *,
        clock: Clock,
        faults: FaultBoard,
        host: str = "127.0.0.1",
        port: int = 4840,
    ) -> None:
        self.endpoint = f"opc.tcp://{host}:{port}/plant"
        self._devices = dict(devices)
        self._clock = clock
        self._faults = faults
        self._server = Server()
        self._nodes: dict[str, dict[str, Node]] = {}
        self._obeys: dict[ua.NodeId, Breaker] = {}
        """Which breaker what is written to a variable moves."""

    async def start(self) -> None:
        """Listen. Raises ``OSError``."""
        await self._server.init()
        self._server.set_endpoint(self.endpoint)
        self._server.set_server_name("Wattring simulated plant")
        self._server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await self._server.register_namespace(NAMESPACE)
        for name, device in self._devices.items():
            place = await self._server.nodes.objects.add_object(ua.NodeId.from_string(f"ns={index};s={name}"), name)
            nodes: dict[str, Node] = {}
            for variable, (type_, value) in _contents(device, self._now_s()).items():
                node_id = ua.NodeId.from_string(f"ns={index};s={name}.{variable}")
                nodes[variable] = await place.add_variable(node_id, variable, value, varianttype=type_)
            await nodes["Close"].set_writable()
            self._nodes[name] = nodes
            self._obeys[nodes["Close"].nodeid] = device
        self._server.subscribe_server_callback(CallbackType.PostWrite, self._obey)
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening; clients that are still connected are cut off."""
        # First what tells them: else the library writes to connections that it has closed, a crash in the log each.
        telling = self._server.iserver.subscription_service
        await telling.delete_subscriptions(list(telling.subscriptions))
        await self._server.stop()

    async def run(self) -> None:
        """Bring values up to date, until cancelled."""
        while True:
            for name, device in self._devices.items():
                if self._faults.active(device.device_id, Frozen, self._now_s()) is None:
                    await self._show(name, device)
            await self._clock.sleep(LOOK_S)

    def _obey(self, write: ServerItemCallback, _: CallbackService) -> None:
        """Take every order that a client writes, also one that repeats the last: the breaker may have tripped."""
        if not write.is_external:
            return
        for item, status in zip(write.request_params.NodesToWrite, write.response_params, strict=True):
            device = self._obeys.get(item.NodeId)
            if device is not None and status.is_good():
                device.order(bool(item.Value.Value.Value), self._now_s())

    async def _show(self, name: str, device: Breaker) -> None:
        at = self._clock.now().astimezone(UTC)
        for variable, (type_, value) in _contents(device, at.timestamp()).items():
            if variable == "Close":
                continue
            node = self._nodes[name][variable]
            if await node.read_value() != value:
                await node.write_value(_data_value(value, type_, at))

    def _now_s(self) -> float:
        return self._clock.now().timestamp()


def _contents(device: Breaker, now_s: float) -> dict[str, tuple[ua.VariantType, object]]:
    """Return type and value of every variable of a device."""
    values = shown(device, now_s)
    double = ua.VariantType.Double
    return {
        "Ua": (double, values["voltage_a"]),
        "Ub": (double, values["voltage_b"]),
        "Uc": (double, values["voltage_c"]),
        "I": (double, [values["current_a"], values["current_b"], values["current_c"]]),
        "P": (double, values["active_power_total"] * 1000),
        "Ep": (double, values["energy_active_import"]),
        "Closed": (ua.VariantType.Boolean, values["breaker_state"] == 1.0),
        "Close": (ua.VariantType.Boolean, device.closed),
    }


def _data_value(value: object, type_: ua.VariantType, at: datetime) -> ua.DataValue:
    time = ua.DateTime.fromtimestamp(at.timestamp(), UTC)
    return ua.DataValue(ua.Variant(value, type_), SourceTimestamp=time, ServerTimestamp=time)
