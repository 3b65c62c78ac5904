"""A Modbus RTU slave by modbus-tk on a serial port, in a process and an environment of its own.

    .tools/peers/modbus/bin/python tests/peers/modbus_tk_slave.py /dev/ttyX 9600

Says "ready" and then answers a line of JSON on each line of JSON: ``{"unit": 1, "start": 0, "set": [2301]}`` or
``{"unit": 1, "start": 0, "get": 2}``, with ``"area": "coil"`` for coils. Units that were never set are silent.
"""

import json
import sys

import serial  # type: ignore[import-untyped,unused-ignore]
from modbus_tk import defines, modbus_rtu  # type: ignore[import-not-found]

BLOCKS = {"holding": defines.HOLDING_REGISTERS, "input": defines.ANALOG_INPUTS, "coil": defines.COILS}


def main() -> None:
    port = serial.Serial(sys.argv[1], int(sys.argv[2]))
    server = modbus_rtu.RtuServer(port, error_on_missing_slave=False)
    slaves = {}
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        unit = order["unit"]
        if unit not in slaves:
            slaves[unit] = server.add_slave(unit)
            for name, kind in BLOCKS.items():
                slaves[unit].add_block(name, kind, 0, 0x6000)
        area = order.get("area", "holding")
        if "set" in order:
            slaves[unit].set_values(area, order["start"], order["set"])
            found = []
        else:
            found = list(slaves[unit].get_values(area, order["start"], order["get"]))
        print(json.dumps(found), flush=True)
    server.stop()


if __name__ == "__main__":
    main()
