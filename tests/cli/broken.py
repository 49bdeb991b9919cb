"""Environments that break one promise each, for the refusal table."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

NUMBER = 3  # not a function


class Toy(gymnasium.Env[Any, Any]):
    """Ten steps of ones; the base that the others break."""

    def __init__(self) -> None:
        self.observation_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self.time = 0

    def observe(self) -> Any:
        return np.ones(3, np.float32)

    def reward(self) -> Any:
        return 1.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.observe(), self.reward(), self.time >= 10, False, {}


class RaisesInConstructor(Toy):
    def __init__(self) -> None:
        raise FileNotFoundError("no licence file")


class RaisesInReset(Toy):
    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        raise ValueError("cannot load level 3")


class RaisesInStep(Toy):
    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.time == 5:
            raise ZeroDivisionError("division by zero")
        return super().step(action)


class NaNObservation(Toy):
    def observe(self) -> Any:
        return np.full(3, np.nan if self.time == 5 else 1.0, np.float32)


class NaNReward(Toy):
    def reward(self) -> Any:
        return float("nan") if self.time == 5 else 1.0


class WrongShape(Toy):
    def observe(self) -> Any:
        return np.ones(4 if self.time == 5 else 3, np.float32)


class WrongDtype(Toy):
    def observe(self) -> Any:
        return np.array(["a", "b", "c"]) if self.time == 5 else np.ones(3, np.float32)


class WrongReward(Toy):
    def reward(self) -> Any:
        return "one" if self.time == 5 else 1.0


class ThreeValues(Toy):
    def step(self, action: Any) -> Any:
        return self.observe(), 1.0, False


class ResetWithoutInfo(Toy):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observe()


class MissingPart(Toy):
    def __init__(self) -> None:
        super().__init__()
        box = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.observation_space = spaces.Dict({"camera": box, "speed": box})

    def observe(self) -> Any:
        return {"camera": np.ones(3, np.float32)}


class TextObservation(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Text(10)


class EmptyObservation(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, (0,), np.float32)


class TupleAction(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,))))


class NoLegalAction(Toy):
    mask = np.zeros(2, np.int8)

    def __init__(self) -> None:
        super().__init__()
        box = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.observation_space = spaces.Dict({"camera": box, "action_mask": spaces.MultiBinary(2)})

    def observe(self) -> Any:
        legal = np.ones(2, np.int8) if self.time < 5 else self.mask
        return {"camera": np.ones(3, np.float32), "action_mask": legal}


class MaskOfWrongSize(NoLegalAction):
    mask = np.ones(3, np.int8)


class MaskForContinuousActions(NoLegalAction):
    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class AlwaysCrashes(Toy):
    def step(self, action: Any) -> Any:
        os._exit(3)


class AlwaysHangs(Toy):
    def step(self, action: Any) -> Any:
        time.sleep(3600)


def returns_none() -> None:
    """A factory that forgot its return."""


def needs_level(level: int) -> Toy:
    """A factory with an argument of its own."""
    return Toy()
