"""Which sites a principal may see: all, named ones, or those of named regions."""

from libs.common.contracts.registry import EntityKind
from libs.common.registry import RegistryView
from libs.common.tokens import Principal
from services.gateway.live import Allowed

REGION = "region:"
