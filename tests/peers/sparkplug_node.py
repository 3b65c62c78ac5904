"""A Sparkplug B node with one device by pysparkplug, in a process and an environment of its own.

    .tools/peers/sparkplug/bin/python tests/peers/sparkplug_node.py PORT GROUP NODE DEVICE

The device has a breaker that obeys. Says "ready" when it is connected, then on each line of JSON such as
``{"Voltage/A": 231.5}`` publishes these metrics and says "done"; ``{"skip": 3}`` loses that many messages before the
next, ``{"birth": true}`` is born again. It obeys ``Node Control/Rebirth``, and says on standard error
what it was told to do.
"""

import json
import sys
import time

from pysparkplug import (  # type: ignore[import-not-found]
    Client,
    DataType,
    DBirth,
    Device,
    EdgeNode,
    Message,
    MessageType,
    Metric,
    NBirth,
    QoS,
    Topic,
)

TYPES = {"Voltage/A": DataType.FLOAT, "Power/Active": DataType.INT32, "Energy/Import": DataType.DOUBLE,
         "Breaker/Closed": DataType.BOOLEAN, "Counter": DataType.UINT64}  # fmt: skip


Values = dict[str, object]


def metric(name: str, value: object) -> Metric:
    return Metric(timestamp=int(time.time() * 1000), name=name, datatype=TYPES[name], value=value)


def main() -> None:
    port, group, name, device_id = int(sys.argv[1]), *sys.argv[2:5]
    values: Values = {
        "Voltage/A": 230.0,
        "Power/Active": -1200,
        "Energy/Import": 12.5,
        "Breaker/Closed": True,
        "Counter": 2**40,
    }

    def told(node: EdgeNode, message: Message) -> None:
        for one in message.payload.metrics:
            print(f"{message.topic.message_type.value} {one.name} {one.value}", file=sys.stderr, flush=True)
            if one.name == "Node Control/Rebirth":
                birth(node)
            elif one.name == "Breaker/Close":
                change(node, {"Breaker/Closed": bool(one.value)})

    def birth(node: EdgeNode) -> None:
        for kind, topic, metrics in (
            (NBirth, Topic(message_type=MessageType.NBIRTH, group_id=group, edge_node_id=name), (node._bd_seq_metric,)),
            (
                DBirth,
                Topic(message_type=MessageType.DBIRTH, group_id=group, edge_node_id=name, device_id=device_id),
                tuple(metric(key, value) for key, value in values.items()),
            ),
        ):
            payload = kind(timestamp=int(time.time() * 1000), seq=node._seq, metrics=metrics)
            node._client.publish(
                Message(topic=topic, payload=payload, qos=QoS.AT_MOST_ONCE, retain=False), include_dtypes=True
            )

    def change(node: EdgeNode, changes: Values) -> None:
        values.update(changes)
        node.update_device(device_id, [metric(key, value) for key, value in changes.items()])

    node = EdgeNode(group, name, [], client=Client(client_id=f"{group}-{name}"), cmd_callback=told)
    node.register(Device(device_id, [metric(key, value) for key, value in values.items()], cmd_callback=told))
    node.connect("127.0.0.1", port=port, blocking=False)
    while not node._connected:
        time.sleep(0.01)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "skip" in order:
            for _ in range(order["skip"]):
                node._seq  # noqa: B018  # each look counts one further
        elif "birth" in order:
            birth(node)
        else:
            change(node, order)
        print("done", flush=True)


if __name__ == "__main__":
    main()
