"""Small built-in tasks, each made to need one ability: memory, masks, pictures, observations of several parts.

Registered with Gymnasium as ``redline/Recall-v0``, ``redline/Masked-v0``, ``redline/Catch-v0`` and ``redline/Dict-v0``.
All can be saved and restored (``save_state``/``load_state``).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

Observation = Any
Outcome = tuple[Observation, float, bool, bool, dict[str, Any]]


class Recall(gymnasium.Env):
    """Recall a cue (a T-maze without the walking; Bakker 2001).

    The cue, one of ``cues``, is shown in the first observation only. ``delay`` blank ones follow, then a query. The
    action on the query earns 1 if it names the cue, else 0; no other action matters. Query observations are equal
    whatever the cue, so no feed-forward policy can expect more than ``1 / cues``; a recurrent one can earn 1.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, cues: int = 4, delay: int = 6) -> None:
        self.cues, self.delay = cues, delay
        self.observation_space = spaces.Box(0.0, 1.0, (cues + 1,), np.float32)  # one-hot cue, query flag
        self.action_space = spaces.Discrete(cues)
        self._cue = self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """Draw a cue and show it."""
        super().reset(seed=seed)
        self._cue, self._time = int(self.np_random.integers(self.cues)), 0
        return self._observation(), {}

    def step(self, action: Any) -> Outcome:
        """Only the action on the query counts; it ends the episode, which has ``delay + 2`` steps."""
        query = self._time == self.delay + 1
        reward = float(query and int(action) == self._cue)
        self._time += 1
        return self._observation(), reward, query, False, {}

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self.cues + 1, np.float32)
        if self._time == 0:
            observation[self._cue] = 1.0
        observation[-1] = self._time == self.delay + 1
        return observation

    def save_state(self) -> dict[str, Any]:
        """Cue and time."""
        return {"cue": self._cue, "time": self._time}

    def load_state(self, state: dict[str, Any]) -> None:
        """Back to what ``save_state`` gave."""
        self._cue, self._time = int(state["cue"]), int(state["time"])


class Masked(gymnasium.Env):
    """Choose the legal action of the highest worth, with legality drawn anew each step.

    Observation: the worth of each action. ``info["action_mask"]`` says which are legal (half of them, rounded up). The
    best legal action earns 1, others 0; an illegal one raises ValueError, so that one violation ends a test.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, actions: int = 5, length: int = 16) -> None:
        self.length = length
        self.observation_space = spaces.Box(0.0, 1.0, (actions,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self._worth = np.zeros(actions, np.float32)
        self._mask = np.ones(actions, np.bool_)
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """Draw worths and a mask."""
        super().reset(seed=seed)
        self._time = 0
        return self._draw()

    def step(self, action: Any) -> Outcome:
        """Earn 1 for the best legal action; raises ValueError for an illegal one."""
        if not self._mask[action]:
            raise ValueError(
                f"action {int(action)} is illegal: the mask is {self._mask.astype(int).tolist()}"
            )
        best = int(np.where(self._mask, self._worth, -1.0).argmax())
        self._time += 1
        observation, info = self._draw()
        return observation, float(int(action) == best), self._time >= self.length, False, info

    def _draw(self) -> tuple[Observation, dict]:
        size = len(self._worth)
        self._worth = self.np_random.random(size, np.float32)
        self._mask = np.zeros(size, np.bool_)
        self._mask[self.np_random.permutation(size)[: (size + 1) // 2]] = True
        return self._worth.copy(), {"action_mask": self._mask.copy()}

    def save_state(self) -> dict[str, Any]:
        """Worths, mask and time."""
        return {"worth": self._worth.copy(), "mask": self._mask.copy(), "time": self._time}

    def load_state(self, state: dict[str, Any]) -> None:
        """Back to what ``save_state`` gave."""
        self._worth, self._mask = np.array(state["worth"]), np.array(state["mask"])
        self._time = int(state["time"])


class Catch(gymnasium.Env):
    """Catch a falling ball with a paddle (bsuite's catch; Osband et al. 2020): 10 rows, 5 columns.

    Actions: left, stay, right. Reward 1 or -1 when the ball reaches the paddle's row, after 9 steps; else 0.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    ROWS, COLUMNS = 10, 5

    def __init__(self, dtype: str = "float32", render_mode: str | None = None) -> None:
        """``dtype`` "float32" gives a picture [10, 5] of 0 and 1; "uint8" one [1, 10, 5] of 0 and 255."""
        self.render_mode = render_mode
        shape = (self.ROWS, self.COLUMNS) if dtype == "float32" else (1, self.ROWS, self.COLUMNS)
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bright = 1 if dtype == "float32" else 255
        self.observation_space = spaces.Box(0, self._bright, shape, self._dtype.type)
        self.action_space = spaces.Discrete(3)
        self._ball_row = self._ball_column = self._paddle = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """The ball starts in a random column of the top row, the paddle in the middle of the bottom one."""
        super().reset(seed=seed)
        self._ball_row, self._paddle = 0, self.COLUMNS // 2
        self._ball_column = int(self.np_random.integers(self.COLUMNS))
        return self._observation(), {}

    def step(self, action: Any) -> Outcome:
        """Move the paddle by -1, 0 or 1; the ball falls one row."""
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.COLUMNS - 1)
        self._ball_row += 1
        landed = self._ball_row == self.ROWS - 1
        reward = 0.0 if not landed else 1.0 if self._paddle == self._ball_column else -1.0
        return self._observation(), reward, landed, False, {}

    def render(self) -> Any:
        """u8[160, 80, 3]."""
        picture = (self._observation().reshape(self.ROWS, self.COLUMNS) > 0).astype(np.uint8) * 255
        return np.repeat(picture.repeat(16, axis=0).repeat(16, axis=1)[..., None], 3, axis=2)

    def _observation(self) -> np.ndarray:
        observation = np.zeros(self._shape, self._dtype)
        picture = observation.reshape(self.ROWS, self.COLUMNS)
        picture[self._ball_row, self._ball_column] = self._bright
        picture[self.ROWS - 1, self._paddle] = self._bright
        return observation

    def save_state(self) -> dict[str, Any]:
        """Ball and paddle."""
        return {"row": self._ball_row, "column": self._ball_column, "paddle": self._paddle}

    def load_state(self, state: dict[str, Any]) -> None:
        """Back to what ``save_state`` gave."""
        self._ball_row, self._ball_column = int(state["row"]), int(state["column"])
        self._paddle = int(state["paddle"])


class Parts(gymnasium.Env):
    """Observations of two parts, of which each alone tells nothing (``redline/Dict-v0``).

    ``image`` u8[1, 8, 8] shows a bright square in one of four quadrants; ``vector`` f32[2] is (1, 0) or (0, 1). The
    right action is the quadrant's number, or with (0, 1) that of the opposite one: it earns 1, others 0.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, length: int = 8) -> None:
        self.length = length
        vector = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict(
            {"image": spaces.Box(0, 255, (1, 8, 8), np.uint8), "vector": vector}
        )
        self.action_space = spaces.Discrete(4)
        self._quadrant = self._opposite = self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict]:
        """Draw the first picture."""
        super().reset(seed=seed)
        self._time = 0
        return self._draw(), {}

    def step(self, action: Any) -> Outcome:
        """Earn 1 for the right quadrant; a new picture each step."""
        right = 3 - self._quadrant if self._opposite else self._quadrant
        self._time += 1
        return self._draw(), float(int(action) == right), self._time >= self.length, False, {}

    def _draw(self) -> Observation:
        self._quadrant, self._opposite = (int(value) for value in self.np_random.integers((4, 2)))
        image = np.zeros((1, 8, 8), np.uint8)
        row, column = divmod(self._quadrant, 2)
        image[0, 4 * row + 1 : 4 * row + 3, 4 * column + 1 : 4 * column + 3] = 255
        return {"image": image, "vector": np.eye(2, dtype=np.float32)[self._opposite]}

    def save_state(self) -> dict[str, Any]:
        """Quadrant, rule and time."""
        return {"quadrant": self._quadrant, "opposite": self._opposite, "time": self._time}

    def load_state(self, state: dict[str, Any]) -> None:
        """Back to what ``save_state`` gave."""
        self._quadrant, self._opposite = int(state["quadrant"]), int(state["opposite"])
        self._time = int(state["time"])


TASKS = {"Recall": Recall, "Masked": Masked, "Catch": Catch, "Dict": Parts}


def register() -> None:
    """Make the tasks known to Gymnasium; does nothing the second time."""
    for name, task in TASKS.items():
        if f"redline/{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"redline/{name}-v0", entry_point=f"{__name__}:{task.__qualname__}")
