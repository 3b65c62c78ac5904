"""An IED by libiec61850, in a process and an environment of its own.

    .tools/peers/iec61850/bin/python tests/peers/iec61850_ied.py PORT

IED "ied1", logical device "LD0": MMXU1 (TotW, PhV), MMTR1 (TotWh), GGIO1 (Ind1, AnOut1: a set point, direct), and
positions of every control model: CSWI1 (select before operate, enhanced), CSWI2 (direct, enhanced), CSWI3 (select
before operate), XCBR1 (direct). Data sets LLN0.Meas (whole objects) and LLN0.State (a whole object, attributes of
another), reports LLN0.RP.urcbMeas01 and LLN0.BR.brcbState01. Says "ready" and then answers each line of JSON with one:

``{"set": "MMXU1.TotW.mag.f", "value": 3.5, "quality": 1, "time_ms": …, "unsynchronized": true}``;
``{"obey": false}`` accepts commands and does nothing; ``{"refuse": 10}`` refuses them with a cause, null takes them
again; ``{"jam": true}`` accepts them and then fails; ``{"heard": true}`` answers with what was operated.

The bindings have no handlers of commands that work, so those are given to the same library through ctypes.
"""

import ctypes
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pyiec61850 as iec  # type: ignore[import-not-found]

IED, LD = "ied1", "LD0"
CHANGES = iec.TRG_OPT_DATA_CHANGED | iec.TRG_OPT_QUALITY_CHANGED | iec.TRG_OPT_INTEGRITY | iec.TRG_OPT_GI
OPTIONS = (
    iec.RPT_OPT_SEQ_NUM | iec.RPT_OPT_TIME_STAMP | iec.RPT_OPT_REASON_FOR_INCLUSION | iec.RPT_OPT_DATA_SET
    | iec.RPT_OPT_CONF_REV
)  # fmt: skip
BUFFERED = OPTIONS | iec.RPT_OPT_ENTRY_ID | iec.RPT_OPT_BUFFER_OVERFLOW
WITH = iec.CDC_CTL_OPTION_ORIGIN | iec.CDC_CTL_OPTION_CTL_NUM
MODELS = {
    "CSWI1": iec.CDC_CTL_MODEL_SBO_ENHANCED | iec.CDC_CTL_MODEL_HAS_CANCEL,
    "CSWI2": iec.CDC_CTL_MODEL_DIRECT_ENHANCED,
    "CSWI3": iec.CDC_CTL_MODEL_SBO_NORMAL | iec.CDC_CTL_MODEL_HAS_CANCEL,
    "XCBR1": iec.CDC_CTL_MODEL_DIRECT_NORMAL,
}
SETPOINT = "GGIO1.AnOut1"

LIBRARY = ctypes.CDLL(str(next(Path(iec.__file__).parent.parent.glob("pyiec61850.libs/libiec61850*"))))
_POINTER, _FLAG, _INT = ctypes.c_void_p, ctypes.c_bool, ctypes.c_int
CHECK = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _FLAG, _FLAG)
OPERATE = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _FLAG)
LIBRARY.IedServer_setPerformCheckHandler.argtypes = [_POINTER, _POINTER, CHECK, _POINTER]
LIBRARY.IedServer_setControlHandler.argtypes = [_POINTER, _POINTER, OPERATE, _POINTER]
LIBRARY.ControlAction_setAddCause.argtypes = [_POINTER, _INT]
LIBRARY.ControlAction_isSelect.argtypes = [_POINTER]
LIBRARY.ControlAction_isSelect.restype = _FLAG
LIBRARY.MmsValue_getBoolean.argtypes = [_POINTER]
LIBRARY.MmsValue_getBoolean.restype = _FLAG
LIBRARY.MmsValue_getElement.argtypes = [_POINTER, _INT]
LIBRARY.MmsValue_getElement.restype = _POINTER
LIBRARY.MmsValue_toFloat.argtypes = [_POINTER]
LIBRARY.MmsValue_toFloat.restype = ctypes.c_float


class Ied:
    """The model and what a test changes in it."""

    def __init__(self, port: int) -> None:
        self.model = iec.IedModel_create(IED)
        device = iec.LogicalDevice_create(LD, self.model)
        nodes = {name: iec.LogicalNode_create(name, device) for name in ("LLN0", "MMXU1", "MMTR1", "GGIO1", *MODELS)}
        parent = {name: iec.toModelNode(node) for name, node in nodes.items()}
        iec.CDC_MV_create("TotW", parent["MMXU1"], 0, False)
        iec.CDC_WYE_create("PhV", parent["MMXU1"], 0)
        iec.CDC_BCR_create("TotWh", parent["MMTR1"], 0)
        iec.CDC_SPS_create("Ind1", parent["GGIO1"], 0)
        iec.CDC_APC_create("AnOut1", parent["GGIO1"], 0, iec.CDC_CTL_MODEL_DIRECT_NORMAL | WITH, False)
        for name, model in MODELS.items():
            iec.CDC_DPC_create("Pos", parent[name], 0, model | WITH)
        self.fill(nodes["LLN0"])
        self.server = iec.IedServer_create(self.model)
        self.obey, self.jam = True, False
        self.refuse: int | None = None
        self.heard: list[str] = []
        self.handlers = [self.controlled(f"{name}.Pos") for name in MODELS] + [self.controlled(SETPOINT)]
        iec.IedServer_start(self.server, port)
        if not iec.IedServer_isRunning(self.server):
            raise SystemExit(f"port {port} is taken")
        for name in MODELS:
            self.set(f"{name}.Pos.stVal", 2)

    def fill(self, node: Any) -> None:
        measured = iec.DataSet_create("Meas", node)
        for name in ("MMXU1$MX$TotW", "MMXU1$MX$PhV", "MMTR1$ST$TotWh"):
            iec.DataSetEntry_create(measured, name, -1, None)
        states = iec.DataSet_create("State", node)
        for name in ("CSWI1$ST$Pos", "GGIO1$ST$Ind1$stVal", "GGIO1$ST$Ind1$q", "GGIO1$ST$Ind1$t"):
            iec.DataSetEntry_create(states, name, -1, None)
        iec.ReportControlBlock_create("urcbMeas01", node, "meas", False, "Meas", 1, CHANGES, OPTIONS, 50, 0)
        iec.ReportControlBlock_create("brcbState01", node, "state", True, "State", 1, CHANGES, BUFFERED, 50, 0)

    def controlled(self, path: str) -> Any:
        """Give an object its handlers, and return them: the library does not keep them alive."""

        def check(action: int, _: int, value: int, test: bool, interlock: bool) -> int:
            if self.refuse is None:
                return int(iec.CONTROL_ACCEPTED)
            LIBRARY.ControlAction_setAddCause(action, self.refuse)
            return int(iec.CONTROL_TEMPORARILY_UNAVAILABLE)

        def operate(action: int, _: int, value: int, test: bool) -> int:
            if path == SETPOINT:
                wanted = LIBRARY.MmsValue_toFloat(LIBRARY.MmsValue_getElement(value, 0))
                status, target = "mxVal.f", wanted
            else:
                wanted = LIBRARY.MmsValue_getBoolean(value)
                status, target = "stVal", 2 if wanted else 1
            self.heard.append(f"{path} {wanted}")
            if self.jam:
                LIBRARY.ControlAction_setAddCause(action, iec.ADD_CAUSE_INVALID_POSITION)
                return int(iec.CONTROL_RESULT_FAILED)
            if self.obey:
                self.set(f"{path}.{status}", target)
            return int(iec.CONTROL_RESULT_OK)

        kept = (CHECK(check), OPERATE(operate))
        server, node = _address(self.server), _address(iec.toDataObject(self.node(path)))
        LIBRARY.IedServer_setPerformCheckHandler(server, node, kept[0], None)
        LIBRARY.IedServer_setControlHandler(server, node, kept[1], None)
        return kept

    def node(self, path: str) -> Any:
        return iec.IedModel_getModelNodeByObjectReference(self.model, f"{IED}{LD}/{path}")

    def attribute(self, path: str) -> Any:
        return iec.toDataAttribute(self.node(path))

    def set(
        self, path: str, value: float, quality: int = 0, time_ms: int | None = None, *, unsynchronized: bool = False
    ) -> None:
        owner = re.split(r"\.(?:stVal|actVal|mag|mxVal|cVal)", path)[0]
        at = iec.Timestamp_create()
        iec.Timestamp_clearFlags(at)
        iec.Timestamp_setTimeInMilliseconds(at, int(time.time() * 1000) if time_ms is None else time_ms)
        iec.Timestamp_setClockNotSynchronized(at, unsynchronized)
        iec.IedServer_lockDataModel(self.server)
        iec.IedServer_updateTimestampAttributeValue(self.server, self.attribute(f"{owner}.t"), at)
        iec.IedServer_updateQuality(self.server, self.attribute(f"{owner}.q"), quality)
        target = self.attribute(path)
        if path.endswith("Pos.stVal"):
            iec.IedServer_updateDbposValue(self.server, target, int(value))
        elif path.endswith(".stVal"):
            iec.IedServer_updateBooleanAttributeValue(self.server, target, bool(value))
        elif path.endswith(".actVal"):
            iec.IedServer_updateInt64AttributeValue(self.server, target, int(value))
        else:
            iec.IedServer_updateFloatAttributeValue(self.server, target, float(value))
        iec.IedServer_unlockDataModel(self.server)
        iec.Timestamp_destroy(at)

    def done(self, order: dict[str, Any]) -> Any:
        self.obey = order.get("obey", self.obey)
        self.jam = order.get("jam", self.jam)
        self.refuse = order.get("refuse", self.refuse)
        if "set" in order:
            self.set(
                order["set"], order["value"], order.get("quality", 0), order.get("time_ms"),
                unsynchronized=order.get("unsynchronized", False),
            )  # fmt: skip
        return self.heard if "heard" in order else None


def _address(known: Any) -> int:
    """Return where something of the bindings is: they wrap what they know more of than its address."""
    return int(getattr(known, "this", known))


def main() -> None:
    ied = Ied(int(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(ied.done(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
