"""Watching an agent play, at the speed a person can follow."""

from __future__ import annotations

import time

from redline.api import Policy, draws_nothing
from redline.cli.figures import number
from redline.cli.pictures import Nothing, open_screen
from redline.recipes import family_of
from redline.runtime.evaluate import evaluate
from redline.runtime.pool import one_thread_each
from redline.types import Environment, Step


def play(policy: Policy, episodes: int) -> None:
    """Play ``episodes`` one after another at the speed a person can follow, and tell each one's return."""
    screen = open_screen(policy.spec.name)
    shown = not isinstance(screen, Nothing)
    atari = family_of(policy.spec.name) == "atari"
    pause = policy.spec.action_repeat / 60 if atari else 1 / 30
    due = time.monotonic()
    told = 0

    def follow(environment: Environment, step: Step) -> None:
        nonlocal due, told, shown
        picture = environment.render() if shown else None
        if picture is not None:
            screen.show(picture)
            due = max(due + pause, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0.0))
        elif shown:
            shown = False
            screen.tell(f"{draws_nothing(policy.spec.name)}: returns only")
        for episode in step.episodes:
            told += 1
            screen.tell(
                f"episode {told}: return {number(episode.episode_return)}, {episode.length:,} agent steps"
            )

    try:
        with one_thread_each():
            evaluate(
                policy.experiment,
                policy.algorithm,
                policy.network,
                episodes,
                seed=int(time.time()) % 2**31,
                after_step=follow,
                num_envs=1,
            )
    finally:
        screen.close()
