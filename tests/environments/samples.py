"""Environments that tests make, also inside worker processes: well behaved, and each broken in its own way."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Counter(gymnasium.Env):
    """Counts steps from a random start: observation f32[2] (start, step), reward = step, ends after ``length``."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, length: int = 7, truncate: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self.length, self.truncate = length, truncate
        self.start, self.time = 0.0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.start, self.time = float(self.np_random.random()), 0
        return self.observation(), {}

    def observation(self) -> Any:
        return np.array([self.start, self.time], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time >= self.length
        return self.observation(), float(self.time), over and not self.truncate, over and self.truncate, {}

    def render(self) -> Any:
        return np.full((4, 6, 3), self.time, np.uint8)


class Broken(Counter):
    """A Counter whose copies misbehave at ``step`` in the way ``fault`` names, each time, or ``once`` per file."""

    def __init__(self, fault: str, step: int = 3, once: str | None = None, length: int = 100) -> None:
        super().__init__(length)
        self.fault, self.at, self.once = fault, step, once
        if fault == "space":
            self.observation_space = spaces.Text(5)
        if fault == "action space":
            self.action_space = spaces.Dict({"a": spaces.Discrete(2)})  # type: ignore[assignment]
        if fault == "constructor":
            raise OSError("no such simulator")

    def due(self) -> bool:
        if self.time != self.at:
            return False
        if self.once is None:
            return True
        try:  # the first of all copies to get here
            os.close(os.open(self.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.fault == "reset":
            raise RuntimeError("the simulator\nis not there")
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if not self.due():
            return observation, reward, terminated, truncated, info
        given: dict[str, tuple[Any, Any]] = {
            "nan observation": (np.array([0.0, np.nan], np.float32), reward),
            "inf observation": (np.array([np.inf, 0.0], np.float32), reward),
            "nan reward": (observation, float("nan")),
            "shape": (np.zeros(3, np.float32), reward),
            "broadcast shape": (np.zeros(1, np.float32), reward),
            "dtype": (np.array(["a", "b"]), reward),
            "complex dtype": (np.zeros(2, np.complex64), reward),
            "no observation": (None, reward),
            "reward": (observation, "high"),
            "no reward": (observation, None),
        }
        if self.fault == "raise":
            raise ZeroDivisionError("the simulator\nexploded")
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "busy":
            while True:
                pass
        if self.fault == "exit":
            os._exit(3)
        return (*given[self.fault], terminated, truncated, info)


class Nested(gymnasium.Env):
    """Nested dict and tuple observations, a MultiDiscrete action with a start, float64 and integers."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "inner": spaces.Dict(
                    {"a": spaces.Box(-1, 1, (3,), np.float64), "n": spaces.Discrete(5, start=2)}
                ),
                "pair": spaces.Tuple((spaces.MultiBinary(4), spaces.Box(0, 255, (2, 2), np.uint8))),
                "counts": spaces.MultiDiscrete([3, 4]),
            }
        )
        self.action_space = spaces.MultiDiscrete([3, 2], start=[5, 0])
        self.last = np.zeros(2, np.int64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action)), action
        return self.observation_space.sample(), float(action[0]), False, False, {}


class MaskedDict(Counter):
    """Action mask inside the observation; ``mask`` "empty" or "short" breaks it."""

    def __init__(self, mask: str = "good") -> None:
        super().__init__(5)
        self.mask = mask
        size = 3
        self.observation_space = spaces.Dict(  # type: ignore[assignment]
            {"x": spaces.Box(-np.inf, np.inf, (2,), np.float32), "action_mask": spaces.MultiBinary(size)}
        )

    def observation(self) -> Any:
        mask = np.zeros(2 if self.mask == "short" and self.time else 3, np.int8)
        if self.mask != "empty" or self.time < 2:
            mask[self.time % len(mask)] = 1
        return {"x": super().observation(), "action_mask": mask}


class MaskedPair(gymnasium.Env):
    """Two choices, of 3 and of 4, each with a mask of its own; the highest numbers that are legal earn 1.

    An illegal one raises. ``fault`` "part": the second choice is left nothing, at the third step.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(0.0, 1.0, (7,), np.float32)
    action_space = spaces.MultiDiscrete([3, 4])

    def __init__(self, fault: str = "") -> None:
        self.fault, self.time = fault, 0
        self.mask = np.ones(7, np.bool_)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._draw()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        legal = self.mask[:3], self.mask[3:]
        for mask, chosen in zip(legal, action, strict=True):
            if not mask[chosen]:
                raise ValueError(
                    f"action {list(action)} is illegal: the mask is {self.mask.astype(int).tolist()}"
                )
        best = [int(np.flatnonzero(mask)[-1]) for mask in legal]
        self.time += 1
        return (done := self._draw())[0], float(best == list(action)), self.time >= 16, False, done[1]

    def _draw(self) -> tuple[Any, dict[str, Any]]:
        self.mask = self.np_random.random(7) < 0.5
        self.mask[self.np_random.integers(3)] = self.mask[3 + self.np_random.integers(4)] = True
        if self.fault == "part" and self.time == 2:
            self.mask[3:] = False
        return self.mask.astype(np.float32), {"action_mask": self.mask.copy()}


def counter(**kwargs: Any) -> gymnasium.Env:
    """A factory for ``tests.environments.samples:counter``."""
    return Counter(**kwargs)


def keyed_counter(api_key: str) -> gymnasium.Env:
    """One that is reached with a secret."""
    return Counter()


def vector_counter(num_envs: int, mode: str = "SAME_STEP") -> gymnasium.vector.VectorEnv:
    """A factory of vector environments."""
    autoreset = gymnasium.vector.AutoresetMode[mode]
    return gymnasium.vector.SyncVectorEnv([Counter] * num_envs, autoreset_mode=autoreset)


def stubborn_vector(num_envs: int) -> gymnasium.vector.VectorEnv:
    """A vector environment that resets on the next step and cannot be talked out of it."""
    return gymnasium.wrappers.vector.RecordEpisodeStatistics(gymnasium.make_vec("CartPole-v1", num_envs))


def fixed_vector() -> gymnasium.vector.VectorEnv:
    """A factory that does not take ``num_envs``."""
    return vector_counter(2)


def nothing() -> str:
    """A factory of something else."""
    return "environment"


def pid_file(path: str, **kwargs: Any) -> gymnasium.Env:
    """A Counter that notes the process it lives in."""
    (Path(path) / str(os.getpid())).touch()
    return Counter(**kwargs)


class SlowReset(Counter):
    """Takes ``seconds`` to step, so that a test can see what overlaps."""

    def __init__(self, seconds: float) -> None:
        super().__init__(100)
        self.seconds = seconds

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        return super().step(action)


class SlowStep(SlowReset):
    """The same; what is seeded 0 raises at its third step, before it has slept."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.breaks = seed == 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.breaks and self.time == 2:
            raise RuntimeError("a crash at once")
        return super().step(action)


class Forgetful(Counter):
    """Saves its state; what is seeded 0 cannot at its third step: it raises, or (``fatal``) dies of it."""

    def __init__(self, fatal: bool = False) -> None:
        super().__init__(100)
        self.fatal = fatal

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.breaks = seed == 0
        return super().reset(seed=seed)

    def save_state(self) -> dict[str, Any]:
        if self.breaks and self.time == 3:
            if self.fatal:
                os._exit(3)
            raise OSError("disk\nfull")
        return {"time": self.time}

    def load_state(self, state: dict[str, Any]) -> None:
        self.time = int(state["time"])


class Heavy(Counter):
    """Its state is larger than any pipe's buffer."""

    def save_state(self) -> dict[str, Any]:
        return {"time": self.time, "x": np.zeros(200_000)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.time = int(state["time"])


class OwnSpaces(gymnasium.Env):
    """Spaces that Redline presents otherwise: a Tuple with a Discrete from 3 on, and actions in a Box of two axes."""

    observation_space = spaces.Tuple([spaces.Discrete(4, start=3), spaces.Box(0.0, 1.0, (2,), np.float32)])
    action_space = spaces.Box(-0.5, 0.5, (2, 2), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        return self._seen(), 0.0, self.time >= 8, False, {}

    def _seen(self) -> Any:
        return np.int64(3 + self.time % 4), self.np_random.random(2, np.float32)


class Peak(gymnasium.Env):
    """Episodes of four steps whose return rises to 100 with each episode and then is 0, whatever is done."""

    observation_space, action_space = spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes, self.time = self.episodes + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = self.episodes / 4 if self.episodes <= 100 else 0.0
        return np.zeros(1, np.float32), reward, self.time == 4, False, {}


class Sampled(gymnasium.Env):
    """Random observations of any space; insists on its own actions, and on legal ones where it gives a mask."""

    def __init__(self, observation: gymnasium.Space, action: gymnasium.Space) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        assert self.mask is None or self.mask[action], f"{action!r} is illegal"
        return self._seen(), 0.0, False, False, {}

    def _seen(self) -> Any:
        seen = self.observation_space.sample()
        self.mask = seen.get("action_mask") if isinstance(seen, dict) else None
        if self.mask is not None:
            self.mask[seen["b"]] = 1  # at least one
        return seen
