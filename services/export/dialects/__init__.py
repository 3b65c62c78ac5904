"""The B interface in its variants: neutral messages, one data file per dialect, hardened XML and SOAP."""

from services.export.dialects.base import Dialect
from services.export.dialects.catalogue import Dialects

__all__ = ["Dialect", "Dialects"]
