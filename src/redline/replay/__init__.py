"""Replay: a storage and a sampler; when to draw is the algorithm's business."""

from redline.replay.config import ReplayConfig
from redline.replay.replay import Replay

__all__ = ["Replay", "ReplayConfig"]
