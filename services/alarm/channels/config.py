"""What a channel of each kind is told. Nothing secret: tokens and keys are in the stored secret of the channel."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from libs.common.errors import WrongValue
from libs.common.outgoing import parse_url

PHONE = r"^\+?[0-9]{5,20}$"
ADDRESS = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$"


def _callable(url: str) -> str:
    try:
        parse_url(url)
    except Exception as exc:
        raise WrongValue(
            "a URL http://… or https://… without user and password", "不含用户名和密码的 http:// 或 https:// 地址"
        ) from exc
    return url


def _without_query(url: str) -> str:
    if parse_url(url).query:
        raise WrongValue(
            "a URL without a query: the key of a robot is in the stored secret",
            "不带查询参数的地址：机器人的密钥应保存在密钥文件中",
        )
    return url


Url = Annotated[str, Field(min_length=8, max_length=2000), AfterValidator(_callable)]
RobotUrl = Annotated[Url, AfterValidator(_without_query)]
Phone = Annotated[str, Field(pattern=PHONE)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WebhookConfig(_Config):
    """A JSON document to a URL; signed with ``secret`` of the stored secret as Standard Webhooks says."""

    kind: Literal["webhook"]
    url: Url


class SmtpConfig(_Config):
    """Mail; ``user`` and ``password`` of the stored secret where the server wants them."""

    kind: Literal["smtp"]
    host: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.:_-]+$")
    port: int = Field(default=587, strict=True, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = Field(
        default="starttls", description="starttls and tls check the certificate; none only without user"
    )
    sender: str = Field(pattern=ADDRESS)
    to: tuple[Annotated[str, Field(pattern=ADDRESS)], ...] = Field(min_length=1, max_length=100)


class WecomConfig(_Config):
    """A robot of a WeCom group (企业微信); ``key`` of the stored secret."""

    kind: Literal["wecom"]
    url: RobotUrl = "https://qyapi.weixin.qq.com/cgi-bin/webhook/send"
    mention_mobiles: tuple[Phone, ...] = Field(default=(), max_length=50)


class DingtalkConfig(_Config):
    """A robot of a DingTalk group (钉钉); ``access_token`` and, when it checks signatures, ``secret``."""

    kind: Literal["dingtalk"]
    url: RobotUrl = "https://oapi.dingtalk.com/robot/send"
    mention_mobiles: tuple[Phone, ...] = Field(default=(), max_length=50)


class FeishuConfig(_Config):
    """A robot of a Feishu group (飞书); ``token`` and, when it checks signatures, ``secret`` of the stored secret."""

    kind: Literal["feishu"]
    url: RobotUrl = "https://open.feishu.cn/open-apis/bot/v2/hook"


class SmsSuccess(BaseModel):
    """How an answer says that the message was taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field(min_length=1, max_length=200, description="names joined by dots, in the JSON answer")
    values: tuple[str, ...] = Field(min_length=1, max_length=20)


class SmsConfig(_Config):
    """A short-message gateway by HTTP. Texts of headers and body may hold ``{text}``, ``{phones}``, ``{id}`` and
    ``{secret.<name>}``, which is a value of the stored secret."""

    kind: Literal["sms"]
    url: Url
    method: Literal["POST", "GET"] = "POST"
    encoding: Literal["json", "form", "query"] = "json"
    headers: dict[str, str] = Field(default_factory=dict, max_length=20)
    body: dict[str, Any] = Field(min_length=1, max_length=50)
    phones: tuple[Phone, ...] = Field(min_length=1, max_length=200)
    separator: str = Field(default=",", max_length=5)
    max_chars: int = Field(default=300, strict=True, ge=20, le=1000)
    success: SmsSuccess | None = Field(default=None, description="without it any 2xx is one")


ChannelConfig: TypeAlias = Annotated[
    WebhookConfig | SmtpConfig | WecomConfig | DingtalkConfig | FeishuConfig | SmsConfig, Field(discriminator="kind")
]
CONFIG: TypeAdapter[ChannelConfig] = TypeAdapter(ChannelConfig)
"""Reads what is stored."""

DEFAULT_RATE_PER_MIN = {"webhook": 120, "smtp": 60, "wecom": 20, "dingtalk": 20, "feishu": 60, "sms": 30}
"""WeCom and DingTalk robots take 20 messages a minute (DingTalk bars one that sends more for 10 minutes), Feishu's 100
a minute and 5 a second."""


def host_of(config: ChannelConfig) -> str:
    """Return the host that a channel calls."""
    return config.host if isinstance(config, SmtpConfig) else parse_url(config.url).host
