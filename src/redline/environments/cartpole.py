"""CartPole for a whole batch in NumPy: Gymnasium's ``CartPole``, bit for bit, without a Python loop.

Gymnasium's own vector CartPole resets on the next step, draws all starts from one generator and is slower; this one
follows the single environment (Barto, Sutton & Anderson 1983, with Gymnasium's Euler step) under ``seed + i``, resets
in the same step, and saves its state. A test holds it to Gymnasium's single environment step for step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from redline.environments.batch import EpisodeCounter
from redline.environments.config import EnvironmentConfig
from redline.runs.rng import load_rng_state, rng_state
from redline.types import Episode, Spec, Step, UserError

GRAVITY, MASS_CART, MASS_POLE, HALF_LENGTH, FORCE, TAU = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
TOTAL_MASS, POLE_MOMENT = MASS_POLE + MASS_CART, MASS_POLE * HALF_LENGTH
X_LIMIT, THETA_LIMIT = 2.4, 12 * 2 * math.pi / 360
LIMITS = np.array([[X_LIMIT], [THETA_LIMIT]])
START = 0.05  # a fresh state is uniform in [-START, START]^4


def describe(config: EnvironmentConfig, registration: EnvSpec) -> Spec:
    """The Spec of a CartPole id."""
    limit = config.time_limit or registration.max_episode_steps
    single = CartPoleEnv()
    rules = (
        f"time limit {limit} agent steps, a truncation" if limit else "no time limit",
        "stepped by Redline's own NumPy CartPole, equal to Gymnasium's bit for bit",
    )
    return Spec(registration.id, single.observation_space, spaces.Discrete(2), rules=rules)


class CartPole:
    """B cart-poles. Arrays of a step are fresh ones: nothing is overwritten by the next."""

    def __init__(self, spec: Spec, num_envs: int, time_limit: int | None) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._limit = time_limit if time_limit is not None else 2**62
        self._state = np.zeros((4, num_envs))  # x, x', theta, theta'
        self._generators: list[np.random.Generator] = []
        self._counter = EpisodeCounter(num_envs)
        self._ones = np.ones(num_envs, np.float32)
        self._none = np.zeros(num_envs, np.bool_)
        self._next: Step | None = None

    def reset(self, seed: int) -> Step:
        """Start every environment afresh; environment ``i`` is seeded with ``seed + i``."""
        self._generators = [seeding.np_random(seed + index)[0] for index in range(self.num_envs)]
        self._start(range(self.num_envs))
        self._counter.clear()
        return self.observe()

    def send(self, action: np.ndarray) -> None:
        """Step with i64[B] of 0 (left) and 1 (right)."""
        if action.shape != (self.num_envs,):
            raise ValueError(f"actions have shape {action.shape}, not {(self.num_envs,)}")
        state = self._state
        theta = state[2]
        speed = state[1::2]  # x', theta'
        cosine, sine = np.cos(theta), np.sin(theta)
        force = action * (2 * FORCE) - FORCE
        pull = (force + POLE_MOMENT * np.square(speed[1]) * sine) / TOTAL_MASS
        inertia = HALF_LENGTH * (4.0 / 3.0 - MASS_POLE * np.square(cosine) / TOTAL_MASS)
        turn = (GRAVITY * sine - cosine * pull) / inertia
        push = pull - POLE_MOMENT * turn * cosine / TOTAL_MASS
        state[::2] += TAU * speed
        speed[0] += TAU * push
        speed[1] += TAU * turn
        beyond = np.abs(state[::2]) > LIMITS
        self._finish(beyond[0] | beyond[1])

    def _finish(self, terminated: np.ndarray) -> None:
        counter = self._counter
        counter.add(self._ones)
        observation = self._state.T.astype(np.float32)
        truncated = self._none.copy()
        final = None
        episodes: Sequence[Episode] = ()
        if np.count_nonzero(terminated) or counter.lengths.max() >= self._limit:
            truncated = (counter.lengths >= self._limit) & ~terminated
            ended = np.flatnonzero(terminated | truncated).tolist()
            final = observation
            episodes = counter.finish(ended)
            self._start(ended)
            observation = self._state.T.astype(np.float32)
        self._next = Step(observation, self._ones.copy(), terminated, truncated, final, None, episodes)

    def recv(self) -> Step:
        """The step that ``send`` made."""
        assert self._next is not None, "send comes before recv"
        step, self._next = self._next, None
        return step

    def render(self, index: int = 0) -> np.ndarray:
        """u8[200, 300, 3]: track, cart and pole (drawn here, as Gymnasium needs pygame for its own picture)."""
        x, _, theta, _ = self._state[:, index]
        rows, columns = np.mgrid[0:200, 0:300]
        across = (columns - 150) / 50 - x  # metres from the cart, 50 pixels each
        up = (150 - rows) / 50
        along = across * math.sin(theta) + up * math.cos(theta)
        beside = across * math.cos(theta) - up * math.sin(theta)
        picture = np.full((200, 300, 3), 255, np.uint8)
        picture[np.abs(up) < 0.01] = (0, 0, 0)
        picture[(np.abs(across) < 0.4) & (np.abs(up) < 0.2)] = (40, 40, 40)
        picture[(np.abs(beside) < 0.06) & (along > 0) & (along < 4 * HALF_LENGTH)] = (202, 152, 101)
        return picture

    def state(self) -> dict[str, Any]:
        """Physics, generators and episode counts."""
        generators = {str(index): rng_state(item) for index, item in enumerate(self._generators)}
        return {"physics": self._state.copy(), "generators": generators, **self._counter.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave."""
        if np.shape(state["physics"]) != self._state.shape:
            raise UserError(
                f"environment {self.spec.name!r}: the saved state is not of {self.num_envs} cart-poles"
            )
        self._state[:] = state["physics"]
        self._generators = [seeding.np_random(0)[0] for _ in range(self.num_envs)]
        for index, generator in enumerate(self._generators):
            load_rng_state(generator, state["generators"][str(index)])
        self._counter.load_state(state)

    def observe(self) -> Step:
        """The current observation again (reward 0, nothing ended)."""
        observation = self._state.T.astype(np.float32)
        return Step(observation, np.zeros(self.num_envs, np.float32), self._none.copy(), self._none.copy())

    def events(self) -> dict[str, int]:
        """Nothing can go wrong here."""
        return {"crashes": 0, "hangs": 0}

    def close(self) -> None:
        """Nothing to release."""

    def _start(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._state[:, index] = self._generators[index].uniform(low=-START, high=START, size=(4,))
