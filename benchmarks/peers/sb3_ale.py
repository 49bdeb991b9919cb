"""ale-py's vector environment as a Stable-Baselines3 VecEnv: stepping in C++ threads, no OpenCV, no Python per game."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from stable_baselines3.common.vec_env import VecEnv


class AleVecEnv(VecEnv):
    """``num_envs`` games of 84 x 84 x 4 u8 frames, rewards clipped to their sign, same-step reset."""

    def __init__(self, game: str, num_envs: int, threads: int, seed: int) -> None:
        self.envs = AtariVectorEnv(
            game,
            num_envs,
            num_threads=threads,
            reward_clipping=True,
            autoreset_mode="SameStep",
            use_fire_reset=False,
        )
        self.first_seed = seed
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)

    def reset(self) -> np.ndarray:
        """u8[B, 4, 84, 84]."""
        return self.envs.reset(seed=self.first_seed)[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Start the step."""
        self.envs.send(actions)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Finish the step, as SB3 expects it: the last observation of an episode lies in its info."""
        observation, reward, terminated, truncated, info = self.envs.recv()
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i] = {
                "terminal_observation": info["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
            }
        return observation, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """End the stepping threads."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """SB3 asks for ``render_mode`` only."""
        return [getattr(self.envs, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing here can be set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Nothing here can be called per game."""
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Iterable[int] | None = None) -> Sequence[bool]:
        """No wrappers in Python."""
        return [False] * self.num_envs
