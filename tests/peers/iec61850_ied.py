"""An IED by libiec61850, in a process and an environment of its own.

    .tools/peers/iec61850/bin/python tests/peers/iec61850_ied.py PORT

IED "ied1", logical device "LD0": MMXU1 (TotW, PhV), MMTR1 (TotWh), CSWI1.Pos (select before operate, enhanced),
XCBR1.Pos (direct, normal), GGIO1.Ind1; data sets LLN0.Meas (whole objects) and LLN0.State (attributes), reports
LLN0.RP.urcbMeas01 and LLN0.BR.brcbState01. Says "ready" and then answers each line of JSON with one:
``{"set": "MMXU1.TotW.mag.f", "value": 3.5, "bad": true}``, ``{"obey": false}``, ``{"refuse": true}``,
``{"heard": true}`` (operated so far, open connections).
"""

import json
import re
import sys
import time
from typing import Any

import pyiec61850 as iec  # type: ignore[import-not-found]

IED, LD = "ied1", "LD0"
CHANGES = iec.TRG_OPT_DATA_CHANGED | iec.TRG_OPT_QUALITY_CHANGED | iec.TRG_OPT_INTEGRITY | iec.TRG_OPT_GI
OPTIONS = (
    iec.RPT_OPT_SEQ_NUM | iec.RPT_OPT_TIME_STAMP | iec.RPT_OPT_REASON_FOR_INCLUSION | iec.RPT_OPT_DATA_SET
    | iec.RPT_OPT_CONF_REV
)  # fmt: skip
BUFFERED = OPTIONS | iec.RPT_OPT_ENTRY_ID | iec.RPT_OPT_BUFFER_OVERFLOW
ENHANCED = iec.CDC_CTL_MODEL_SBO_ENHANCED | iec.CDC_CTL_OPTION_ORIGIN | iec.CDC_CTL_OPTION_CTL_NUM
DIRECT = iec.CDC_CTL_MODEL_DIRECT_NORMAL | iec.CDC_CTL_OPTION_ORIGIN | iec.CDC_CTL_OPTION_CTL_NUM


class Ied:
    """The model and what a test changes in it."""

    def __init__(self, port: int) -> None:
        self.model = iec.IedModel_create(IED)
        device = iec.LogicalDevice_create(LD, self.model)
        nodes = {
            name: iec.LogicalNode_create(name, device) for name in ("LLN0", "MMXU1", "MMTR1", "CSWI1", "XCBR1", "GGIO1")
        }
        parent = {name: iec.toModelNode(node) for name, node in nodes.items()}
        iec.CDC_MV_create("TotW", parent["MMXU1"], 0, False)
        iec.CDC_WYE_create("PhV", parent["MMXU1"], 0)
        iec.CDC_BCR_create("TotWh", parent["MMTR1"], 0)
        iec.CDC_DPC_create("Pos", parent["CSWI1"], 0, ENHANCED)
        iec.CDC_DPC_create("Pos", parent["XCBR1"], 0, DIRECT)
        iec.CDC_SPS_create("Ind1", parent["GGIO1"], 0)
        measured = iec.DataSet_create("Meas", nodes["LLN0"])
        for name in ("MMXU1$MX$TotW", "MMXU1$MX$PhV", "MMTR1$ST$TotWh"):
            iec.DataSetEntry_create(measured, name, -1, None)
        states = iec.DataSet_create("State", nodes["LLN0"])
        for name in ("CSWI1$ST$Pos", "GGIO1$ST$Ind1"):
            for part in ("stVal", "q", "t"):
                iec.DataSetEntry_create(states, f"{name}${part}", -1, None)
        iec.ReportControlBlock_create("urcbMeas01", nodes["LLN0"], "meas", False, "Meas", 1, CHANGES, OPTIONS, 50, 0)
        iec.ReportControlBlock_create("brcbState01", nodes["LLN0"], "state", True, "State", 1, CHANGES, BUFFERED, 50, 0)
        self.server = iec.IedServer_create(self.model)
        self.obey = True
        self.refuse = False
        self.heard: list[str] = []
        self.handlers = [self._control(name) for name in ("CSWI1", "XCBR1")]
        iec.IedServer_start(self.server, port)
        if not iec.IedServer_isRunning(self.server):
            raise SystemExit(f"port {port} is taken")
        self.set("CSWI1.Pos.stVal", 2)
        self.set("XCBR1.Pos.stVal", 2)

    def _control(self, name: str) -> Any:
        ied = self

        class Check(iec.CheckHandlerForPython):
            def trigger(self) -> int:
                return iec.CONTROL_TEMPORARILY_UNAVAILABLE if ied.refuse else iec.CONTROL_ACCEPTED

        class Wait(iec.WaitForExecutionHandlerForPython):
            def trigger(self) -> int:
                return iec.CONTROL_RESULT_OK

        class Operate(iec.ControlHandlerForPython):
            def trigger(self) -> int:
                closed = iec.MmsValue_getBoolean(self._libiec61850_mms_value)
                ied.heard.append(f"{name} {closed}")
                if ied.obey:
                    ied.set(f"{name}.Pos.stVal", 2 if closed else 1)
                return iec.CONTROL_RESULT_OK

        subscriber = iec.ControlSubscriberForPython()
        subscriber.setIedServer(self.server)
        subscriber.setControlObject(iec.toDataObject(self.node(f"{name}.Pos")))
        kept = (Check(), Wait(), Operate())
        subscriber.setCheckHandler(kept[0])
        subscriber.setWaitHandler(kept[1])
        subscriber.setControlHandler(kept[2])
        subscriber.subscribe()
        return (subscriber, *kept)

    def node(self, path: str) -> Any:
        return iec.IedModel_getModelNodeByObjectReference(self.model, f"{IED}{LD}/{path}")

    def attribute(self, path: str) -> Any:
        return iec.toDataAttribute(self.node(path))

    def set(self, path: str, value: float, *, bad: bool = False) -> None:
        owner = re.split(r"\.(?:stVal|actVal|mag|cVal)", path)[0]
        iec.IedServer_lockDataModel(self.server)
        iec.IedServer_updateUTCTimeAttributeValue(self.server, self.attribute(f"{owner}.t"), int(time.time() * 1000))
        quality = iec.QUALITY_VALIDITY_INVALID if bad else iec.QUALITY_VALIDITY_GOOD
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

    def done(self, order: dict[str, Any]) -> Any:
        self.obey = order.get("obey", self.obey)
        self.refuse = order.get("refuse", self.refuse)
        if "set" in order:
            self.set(order["set"], order["value"], bad=order.get("bad", False))
        if "heard" in order:
            return {"operated": self.heard, "connections": iec.IedServer_getNumberOfOpenConnections(self.server)}
        return None


def main() -> None:
    ied = Ied(int(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(ied.done(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
