"""The registry as services see it: a projection of ``registry.entities``, in a table and in memory."""

from libs.common.registry.file import parse_registry_yaml, read_registry
from libs.common.registry.index import RegistryIndex
from libs.common.registry.view import RegistryNotReady, RegistryView, create_registry_tables

__all__ = [
    "RegistryIndex",
    "RegistryNotReady",
    "RegistryView",
    "create_registry_tables",
    "parse_registry_yaml",
    "read_registry",
]
