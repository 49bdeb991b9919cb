"""Actors: they step environments with a policy and write what happened."""

from redline.actors.unroll import Actor, allocate

__all__ = ["Actor", "allocate"]
