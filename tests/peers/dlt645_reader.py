"""Reads a DL/T 645 meter by the library dlt645, in a process of its own.

    python tests/peers/dlt645_reader.py PORT 341200000000 0:65536 2:33619200 4:67109889

Says one line of JSON: the values by identifier, and the address that the meter tells.
"""

import json
import sys

from dlt645 import MeterClientService


def main() -> None:
    client = MeterClientService.new_tcp_client("127.0.0.1", int(sys.argv[1]), 5)
    client.set_address(sys.argv[2])
    found: dict[str, object] = {}
    for wanted in sys.argv[3:]:
        kind, _, di = wanted.partition(":")
        item = getattr(client, f"read_0{kind}")(int(di))
        found[di] = None if item is None else str(item.value)
    address = client.read_address()
    found["address"] = None if address is None else str(address.value)
    print("found " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
