"""Replay: a storage, a sampler and a limiter."""

from redline.replay.config import ReplayConfig
from redline.replay.limiter import Limiter
from redline.replay.replay import Replay

__all__ = ["Limiter", "Replay", "ReplayConfig"]
