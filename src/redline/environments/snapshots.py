"""Bit-exact save and restore of single Gymnasium environments, where that can be promised.

Promised for classic control, Gymnasium's own MuJoCo environments, Redline's built-in tasks, and any environment that
offers ``save_state() -> dict`` (arrays and plain values; less its ``np_random``, which is kept here) and
``load_state(dict)``. A wrapper not listed here may hide state, so its environment is not promised anything.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.classic_control.continuous_mountain_car import Continuous_MountainCarEnv
from gymnasium.envs.classic_control.mountain_car import MountainCarEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from redline.runs.rng import load_rng_state, rng_state

CLASSIC = {CartPoleEnv, PendulumEnv, MountainCarEnv, Continuous_MountainCarEnv, AcrobotEnv}
STATELESS = {
    wrappers.OrderEnforcing,
    wrappers.PassiveEnvChecker,
    wrappers.ClipAction,
    wrappers.RescaleAction,
    wrappers.FlattenObservation,
    wrappers.DtypeObservation,
    wrappers.ReshapeObservation,
    wrappers.RescaleObservation,
}


def can_snapshot(env: gymnasium.Env) -> bool:
    """Whether ``snapshot`` and ``restore`` keep everything this environment's future depends on."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in STATELESS and type(env) is not wrappers.TimeLimit:
            return False
        env = env.env
    return type(env) in CLASSIC or _has_own(env) or _is_mujoco(env)


def snapshot(env: gymnasium.Env) -> dict[str, Any]:
    """Arrays and plain values from which ``restore`` goes on bit for bit; only where ``can_snapshot``."""
    base = env.unwrapped
    state: dict[str, Any] = {"random": rng_state(base.np_random), "elapsed": _elapsed(env)}
    if _has_own(base):
        state["own"] = base.save_state()  # type: ignore[attr-defined]
    elif type(base) in CLASSIC:
        state["state"] = np.array(base.state)  # type: ignore[attr-defined]
        beyond = getattr(base, "steps_beyond_terminated", None)
        state["beyond"] = -1 if beyond is None else int(beyond)
    else:
        state |= _mujoco_state(base)
    return state


def restore(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Put an environment, fresh or used, back where ``snapshot`` found it."""
    env.reset(seed=0)  # builds the generator and tells the wrappers that stepping is allowed
    base = env.unwrapped
    if _has_own(base):
        base.load_state(state["own"])  # type: ignore[attr-defined]
    elif type(base) in CLASSIC:
        base.state = np.array(state["state"])  # type: ignore[attr-defined]
        if hasattr(base, "steps_beyond_terminated"):
            base.steps_beyond_terminated = None if state["beyond"] < 0 else int(state["beyond"])
    else:
        _load_mujoco_state(base, state)
    load_rng_state(base.np_random, state["random"])
    for wrapper in _wrappers(env):
        if type(wrapper) is wrappers.TimeLimit:
            wrapper._elapsed_steps = int(state["elapsed"])  # type: ignore[assignment]


def _wrappers(env: gymnasium.Env) -> list[gymnasium.Wrapper]:
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def _elapsed(env: gymnasium.Env) -> int:
    limits = [item._elapsed_steps or 0 for item in _wrappers(env) if type(item) is wrappers.TimeLimit]
    return int(limits[0]) if limits else 0


def _has_own(base: gymnasium.Env) -> bool:
    return hasattr(base, "save_state") and hasattr(base, "load_state")


def _is_mujoco(base: gymnasium.Env) -> bool:
    # Only Gymnasium's own: a user's subclass may keep more between steps than MuJoCo's data.
    return type(base).__module__.startswith("gymnasium.envs.mujoco.") and hasattr(base, "data")


def _derived(data: Any) -> dict[str, np.ndarray]:
    """MuJoCo's computed quantities of fixed size.

    ``mj_step`` leaves positions of bodies one substep behind ``qpos``, and environments read them so (Ant's and
    Humanoid's velocities): recomputing them from the restored ``qpos`` would not give the same numbers.
    """
    fields = {}
    for name in dir(data):
        if name.startswith(("_", "efc_", "contact", "iefc_")):  # variable size, rebuilt by every step
            continue
        value = getattr(data, name, None)
        if (
            isinstance(value, np.ndarray)
            and value.size
            and value.dtype.kind in "fiub"
            and value.flags.writeable
        ):
            fields[name] = value
    return fields


def _mujoco_state(base: Any) -> dict[str, Any]:
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.empty(mujoco.mj_stateSize(base.model, kind), np.float64)
    mujoco.mj_getState(base.model, base.data, integration, kind)
    state = {
        "integration": integration,
        "derived": {key: leaf.copy() for key, leaf in _derived(base.data).items()},
    }
    extra = {
        key: np.array(getattr(base, key))
        for key in ("goal", "goal_pos", "cylinder_pos")
        if hasattr(base, key)
    }
    return state | {"extra": extra}


def _load_mujoco_state(base: Any, state: dict[str, Any]) -> None:
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    integration = np.ascontiguousarray(state["integration"], np.float64)
    mujoco.mj_setState(base.model, base.data, integration, kind)
    mujoco.mj_forward(base.model, base.data)
    # The forward pass renews warm starts too: set everything again after it.
    mujoco.mj_setState(base.model, base.data, integration, kind)
    current = _derived(base.data)
    for key, saved in state["derived"].items():
        if key in current and current[key].shape == saved.shape:
            current[key][...] = saved
    for key, saved in state["extra"].items():
        setattr(base, key, np.array(saved))
