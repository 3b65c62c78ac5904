"""The card platform's client against the simulated platform, over a socket; the signature by published examples."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput
from libs.common.outgoing import AddressGuard, GuardedClient
from libs.fieldsim.cards import CardPlatform, SimulatedCard
from services.export.cards import answers
from services.export.cards.client import CardPlatformUnavailable, CmpClient, NoCardAccount, NoCardPlatform
from services.export.cards.signing import sign, timestamp

NUMBER = "1064900000000"
OWE = "/openapi/v1/prodinst/queryOwe"


@pytest.mark.parametrize(
    ("secret", "stamp", "query", "body", "expected"),
    [
        (
            "demoSecretKey",
            "20231114221320",
            {"access_number": NUMBER},
            "",
            "6638346436333130663738393335666331346335336339656238626662366562",
        ),
        (
            "demoSecretKey",
            "20231114221320",
            {},
            '{"accessNumbers":["1064900000000"],"custNumber":"C1","groupId":"","simStatus":""}',
            "3939653061386465326461663565346235353135313530643432363036656165",
        ),
        (  # the example of the platform's own description
            "d1209cfefe895364e03",
            "20201101021435",
            {"c": "3", "a": "1", "b": "2"},
            '{"name":"xf","age":"dd"}',
            "3863613035653132306631333231313733383637376333326536316631643934",
        ),
    ],
    ids=["get", "post", "published"],
)
def test_the_signature_is_that_of_the_examples(
    secret: str, stamp: str, query: dict[str, str], body: str, expected: str
) -> None:
    assert sign(secret=secret, stamp=stamp, query=query, body=body) == expected


def test_the_platform_wants_its_time_in_gmt() -> None:
    assert timestamp(datetime.fromisoformat("2023-11-15T06:13:20+08:00")) == "20231114221320"


@pytest.fixture
async def platform() -> AsyncIterator[CardPlatform]:
    found = CardPlatform(cards={NUMBER: SimulatedCard()})
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def http() -> AsyncIterator[GuardedClient]:
    async with GuardedClient(AddressGuard(["127.0.0.0/8"])) as client:
        yield client


def client(
    platform: CardPlatform, http: GuardedClient, *, secret: str = "demoSecretKey", calls: int = 100
) -> CmpClient:
    return CmpClient(
        url=platform.url,
        app_key=platform.app_key,
        secret=secret,
        customer="C1",
        arrears_path=OWE,
        http=http,
        clock=SystemClock(),
        timeout_s=10.0,
        remember_s=600.0,
        calls_per_minute=calls,
    )


async def test_state_usage_kind_and_arrears_are_read(platform: CardPlatform, http: GuardedClient) -> None:
    platform.cards[NUMBER] = SimulatedCard(
        state="5",
        owed=12.5,
        used_kb=900.0,
        directed=True,
        targets=("198.51.100.7", "iot.example"),
        expires_on="2026-12-31",
    )
    found = await client(platform, http).card(NUMBER)
    assert found.facts == {
        "card_state": "5",
        "card_cut_off": False,
        "card_real_named": True,
        "card_owed": 12.5,
        "card_used_kb": 900.0,
        "card_package_kb": 30_720.0,
        "card_network": "nb",
        "card_directed": True,
        "card_targets": "198.51.100.7,iot.example",
        "card_quota_kb": 30_720.0,
        "card_bound": True,
        "card_expires_on": "2026-12-31",
    }
    assert found.missing == ()
    assert platform.findings == []


async def test_the_session_names_module_and_time(platform: CardPlatform, http: GuardedClient) -> None:
    found = await client(platform, http).session(NUMBER)
    assert found.facts["session"] == "start"
    assert found.facts["session_imei"] == "8699510417473401"
    assert found.facts["session_since"] == "2026-03-01T08:00:00+08:00"


async def test_an_answer_is_remembered_and_two_who_ask_at_once_ask_once(
    platform: CardPlatform, http: GuardedClient
) -> None:
    cards = client(platform, http)
    one, other = await asyncio.gather(cards.card(NUMBER), cards.card(NUMBER))
    assert one is other
    assert len(platform.asked) == 4


async def test_what_did_not_answer_is_missing_and_asked_again(platform: CardPlatform, http: GuardedClient) -> None:
    platform.refuse_paths = {"queryCardMainStatus"}
    cards = client(platform, http)
    found = await cards.card(NUMBER)
    assert found.missing == ("queryCardMainStatus",)
    assert "card_state" not in found.facts
    platform.refuse_paths = set()
    assert (await cards.card(NUMBER)).facts["card_state"] == "4"


@pytest.mark.parametrize("trouble", ["down", "wrong secret", "unknown card", "nobody listens"])
async def test_a_platform_that_cannot_tell_says_so(trouble: str, platform: CardPlatform, http: GuardedClient) -> None:
    platform.down = trouble == "down"
    number = "1064911111111" if trouble == "unknown card" else NUMBER
    cards = client(platform, http, secret="other" if trouble == "wrong secret" else "demoSecretKey")
    if trouble == "nobody listens":
        await platform.stop()
    with pytest.raises(CardPlatformUnavailable):
        await cards.card(number)


async def test_more_calls_than_agreed_are_not_sent(platform: CardPlatform, http: GuardedClient) -> None:
    cards = client(platform, http, calls=2)
    found = await cards.card(NUMBER)
    assert len(found.missing) == 2
    with pytest.raises(CardPlatformUnavailable, match="2 calls within a minute"):
        await cards.session(NUMBER)
    assert len(platform.asked) == 2


async def test_many_cards_are_asked_about_by_the_hundred(platform: CardPlatform, http: GuardedClient) -> None:
    numbers = [f"10649{number:08d}" for number in range(150)]
    platform.cards = {number: SimulatedCard(state="5" if number.endswith("7") else "4") for number in numbers[:140]}
    states = await client(platform, http).states(numbers)
    assert len(states) == 140
    assert states[numbers[7]] == "5"
    assert platform.asked == ["batchQrySimStatus", "batchQrySimStatus"]


async def test_what_is_no_number_is_never_sent(platform: CardPlatform, http: GuardedClient) -> None:
    with pytest.raises(InvalidInput):
        await client(platform, http).card("106490000000&x=1")
    with pytest.raises(NoCardAccount):
        await NoCardPlatform().card(NUMBER)
    assert platform.asked == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["productMainStatusCd", "netBlockStatusName", "imei", "acctStatusType", "eventTimestamp", "totalBytesCnt",
             "offerType", "attrName", "attrValue", "expireDate", "accessNumber", "simStatus", "resultCode", "quota"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_whatever_is_answered_is_read_or_refused(answer: object) -> None:
    try:
        checked = answers.check(answer)
    except answers.NoAnswer:
        return
    for read in (answers.read_state, answers.read_product, answers.read_traffic, answers.read_session):
        facts = read(checked)
        assert str(facts.get("card_state", "4")) in "1234567"
        assert facts.get("card_used_kb", 0.0) >= 0.0  # type: ignore[operator]
    answers.read_states(checked)
