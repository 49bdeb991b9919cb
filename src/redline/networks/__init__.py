"""Networks: torsos, recurrent cores and heads, chosen by observation and action space."""

from redline.networks.build import build
from redline.networks.config import NetworkConfig

__all__ = ["NetworkConfig", "build"]
