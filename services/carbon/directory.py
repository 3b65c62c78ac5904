"""What carbon asks of the registry: which meters measure a circuit, which circuits feed a site, and where it lies."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from libs.common.contracts.registry import BindingRecord, CircuitRecord, CircuitRole, EntityKind
from libs.common.ids import CircuitId, DeviceId, SiteId
from libs.common.registry import RegistryView
from services.carbon.domain.booking import Binding
