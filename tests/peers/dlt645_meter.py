"""A DL/T 645 meter by the library dlt645, in a process of its own: it logs what it likes where it likes.

    python tests/peers/dlt645_meter.py 341200000000 '{"0": {"65536": 1234.56}, "2": {"33619200": 230.1}}'

The address is that of the wire, lowest pair first; values are by class and identifier. Says ``port N`` and runs until
its input ends.
"""

import asyncio
import json
import sys

from dlt645.aio import AsyncMeterServerService


async def main(address: str, values: dict[str, dict[str, float]]) -> None:
    service = AsyncMeterServerService.new_tcp_server("127.0.0.1", 0, 3600)
    service.set_address(address)
    for di, value in values.get("0", {}).items():
        assert service.set_00(int(di), value)
    for di, value in values.get("2", {}).items():
        assert service.set_02(int(di), value)
    async with service:
        print(f"port {service.server._server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
