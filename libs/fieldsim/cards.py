"""A simulated card platform of the new generation: it checks signatures and tells what its cards are set to.

Nobody here ever saw the real one; envelopes and names are those that its public clients expect.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import orjson

from libs.fieldsim.sc.httpserver import HttpServer, Reply, Request

JSON = "application/json; charset=UTF-8"


@dataclass(slots=True)
class SimulatedCard:
    """A card and its account."""

    state: str = "4"
    """1 ready to activate, 2 test, 3 test off, 4 in use, 5 stopped, 6 managed by the operator, 7 removed."""
    cut_off: bool = False
    real_named: bool = True
    owed: float = 0.0
    used_kb: float = 1000.0
    package_kb: float = 30_720.0
    quota_mb: float = 30.0
    network: str = "NB-IoT"
    directed: bool = False
    targets: tuple[str, ...] = ()
    bound: bool = True
    session: str = "start"
    imei: str = "8699510417473401"
    apn: str = "ctnb"
    since: str = "2026-03-01 08:00:00"
    expires_on: str | None = None


@dataclass(slots=True)
class CardPlatform:
    """Listens; ``cards`` may be changed at any time."""

    app_key: str = "demoAppKey"
    secret: str = field(default="demoSecretKey", repr=False)
    host: str = "127.0.0.1"
    port: int = 0
    cards: dict[str, SimulatedCard] = field(default_factory=dict)
    down: bool = False
    """Answer 503 to everything."""
    refuse_paths: set[str] = field(default_factory=set)
    """Last parts of paths that are answered with an error code."""
    asked: list[str] = field(default_factory=list)
    """Last parts of the paths that were called, in order."""
    findings: list[str] = field(default_factory=list)
    """What was wrong with requests."""
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        """Base of the gateway."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The port is taken.
        """
        server = HttpServer(self._answer, host=self.host, port=self.port)
        await server.start()
        self._server, self.port = server, server.port

    async def stop(self) -> None:
        """Stop listening."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def _answer(self, request: Request) -> Reply:
        name = request.path.rsplit("/", 1)[-1]
        self.asked.append(name)
        if self.down:
            return Reply(503, b"", JSON)
        wrong = self._wrong(request)
        if wrong is not None:
            self.findings.append(f"{name}: {wrong}")
            return _reply({"code": "401", "message": wrong}, 401)
        if name in self.refuse_paths:
            return _reply({"resultCode": "9999", "resultMsg": "系统繁忙"})
        if name == "batchQrySimStatus":
            wanted = orjson.loads(request.body)["accessNumbers"]
            known = [number for number in wanted if number in self.cards]
            rows = [{"accessNumber": number, "simStatus": self.cards[number].state} for number in known]
            return _reply({"code": "0", "data": {"qrySimStatusList": rows}})
        card = self.cards.get(dict(parse_qsl(request.query)).get("access_number", ""))
        if card is None:
            return _reply({"resultCode": "-3", "resultMsg": "号码不存在"})
        said = _ANSWERS.get(name)
        return Reply(404, b"{}", JSON) if said is None else _reply(said(card))

    def _wrong(self, request: Request) -> str | None:
        query = sorted(parse_qsl(request.query, keep_blank_values=True))
        stamp = request.headers.get("timestamp", "")
        text = "&".join(f"{name}={value}" for name, value in query)
        signed = text.encode() + request.body + self.secret.encode() + stamp.encode()
        inner = hashlib.md5(signed, usedforsecurity=False).hexdigest()
        if request.headers.get("appkey") != self.app_key:
            return "unknown AppKey"
        if len(stamp) != 14 or not stamp.isdigit():
            return "Timestamp is not yyyyMMddHHmmss"
        return None if request.headers.get("sign") == inner.encode().hex().upper() else "wrong Sign"


def _state(card: SimulatedCard) -> Mapping[str, Any]:
    return {
        "result": "0",
        "resultMsg": "成功",
        "netBlockStatusName": "已断网" if card.cut_off else "未断网",
        "authStatus": "1" if card.real_named else "0",
        "productInfo": [{"productMainStatusCd": card.state}],
    }


def _product(card: SimulatedCard) -> Mapping[str, Any]:
    functions = [{"attrName": "IP/域名", "attrValue": ";".join(card.targets)}] if card.directed else []
    return {
        "resultCode": "0",
        "networkType": card.network,
        "offerType": "1" if card.directed else "0",
        "offNetQuotaMB": str(card.quota_mb),
        "bindStatus": "1" if card.bound else "0",
        "funProdInfos": [{"funProdName": "定向", "attrInfos": functions}],
        **({} if card.expires_on is None else {"expireDate": card.expires_on}),
    }


def _session(card: SimulatedCard) -> Mapping[str, Any]:
    facts = {"acctStatusType": card.session, "imei": card.imei, "apn": card.apn, "eventTimestamp": card.since}
    return {"resultCode": "0", "resultMsg": "处理成功！", "description": {"result": "0", **facts}}


def _traffic(card: SimulatedCard) -> Mapping[str, Any]:
    return {"code": "0", "data": {"totalBytesCnt": f"{card.used_kb}KB", "totalFlow": f"{card.package_kb}KB"}}


def _owed(card: SimulatedCard) -> Mapping[str, Any]:
    return {"resultCode": "0", "oweFee": f"{card.owed:.2f}"}


_ANSWERS = {
    "queryCardMainStatus": _state,
    "prodInstQuery": _product,
    "getOnlineStatus": _session,
    "queryTraffic": _traffic,
    "queryOwe": _owed,
}


def _reply(body: Mapping[str, Any], status: int = 200) -> Reply:
    return Reply(status, orjson.dumps(body), JSON)
