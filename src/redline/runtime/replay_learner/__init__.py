"""Actors beside a replay and one learner, as in Ape-X."""

from redline.runtime.replay_learner.loop import ReplayLearnerLoop

__all__ = ["ReplayLearnerLoop"]
