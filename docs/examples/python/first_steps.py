"""Sites, their energy, an order and its result, by the generated client. 用生成的客户端读取站点与能耗、下发命令并接收结果。

    pip install -r requirements.txt
    openapi-python-client generate --path ../../api/openapi.json --config generator.yaml --meta none --output-path wattring_client
    WATTRING_KEY=wr_… python first_steps.py http://127.0.0.1:8000 aau-0 http://127.0.0.1:9000/hooks

It switches the load off for an hour, waits for the signed callback, and switches it on again. The address of the hook
is this program's: Wattring must be able to reach it, and be allowed to (WATTRING_EXPORT__CALLBACKS__ALLOWED).
"""

import json
import os
import queue
import sys
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TypeVar
from urllib.parse import urlsplit

from standardwebhooks import Webhook
from wattring_client import AuthenticatedClient
from wattring_client.api.callbacks import delete_callbacks_by_callback_id, post_callbacks
from wattring_client.api.commands import get_commands_groups_by_group_id, post_commands
from wattring_client.api.energy import get_energy
from wattring_client.api.registry import get_sites
from wattring_client.models import (
    CommandIn,
    CommandInAction,
    CreatedView,
    EnergyReply,
    GroupView,
    NewCallbackBody,
    NewsType,
    ProblemDetail,
    SitePage,
    Step,
)
from wattring_client.types import UNSET


Answer = TypeVar("Answer")


def checked(answer: object, wanted: type[Answer]) -> Answer:
    """Return an answer that is no problem."""
    if isinstance(answer, ProblemDetail):
        raise SystemExit(f"{answer.code}: {answer.detail} {answer.detail_zh}")
    assert isinstance(answer, wanted), answer
    return answer


def receiver(url: str) -> "queue.Queue[tuple[dict[str, str], bytes]]":
    """Take callbacks at an address of ours; what comes is put into the queue."""
    calls: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()

    class Hooks(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)  # once you have kept it: what is not answered 2xx comes again
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    place = urlsplit(url)
    server = HTTPServer((place.hostname or "", place.port or 80), Hooks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return calls


def order(client: AuthenticatedClient, action: CommandInAction, load: str) -> GroupView:
    """Order, and follow the order until the end of every command is known."""
    restore_at = datetime.now(UTC) + timedelta(hours=1) if action is CommandInAction.OPEN else UNSET
    body = CommandIn(action=action, load_id=load, restore_at=restore_at, reason="first steps")
    # With a key of yours the same request can be sent again after a lost answer, and is done once.
    answer = post_commands.sync(client=client, body=body, idempotency_key=str(uuid.uuid4()))
    group = checked(answer, GroupView)
    while group.progress.done < group.progress.total:
        time.sleep(0.2)
        group = checked(get_commands_groups_by_group_id.sync(group.group_id, client=client), GroupView)
    return group


def main(url: str, load: str, hook: str) -> None:
    """Do it step by step."""
    client = AuthenticatedClient(base_url=url, token=os.environ["WATTRING_KEY"], raise_on_unexpected_status=True)

    sites = checked(get_sites.sync(client=client), SitePage).items
    now = datetime.now(UTC)
    for site in sites:
        print("site", site.id, site.name)
        answer = get_energy.sync(client=client, site=site.id, from_=now - timedelta(days=1), to=now, step=Step.HOUR)
        for period in checked(answer, EnergyReply).periods:
            if period.energy_kwh is not None:  # nothing is no zero
                print("energy", site.id, period.start.isoformat(), period.energy_kwh, "kWh")

    calls = receiver(hook)
    wish = NewCallbackBody(name="first steps", url=hook, types=[NewsType.COMMAND_RESULT], only_mine=True)
    endpoint = checked(post_callbacks.sync(client=client, body=wish), CreatedView)
    print("order", order(client, CommandInAction.OPEN, load).state)
    headers, body = calls.get(timeout=60)
    event = Webhook(endpoint.secret).verify(body, headers)  # raises when it is not signed with the secret
    print("callback", event["type"], event["subject"], json.dumps(event["data"]["state"]))
    print("order", order(client, CommandInAction.CLOSE, load).state)
    delete_callbacks_by_callback_id.sync_detailed(endpoint.id, client=client)


if __name__ == "__main__":
    main(*sys.argv[1:])
