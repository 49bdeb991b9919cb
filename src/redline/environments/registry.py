"""From what the user typed to an environment: ids, factories, and one clear line where that fails."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import VectorEnv

from redline.environments.config import EnvironmentConfig
from redline.types import UserError

Factory = Callable[..., Any]


def one_line(error: BaseException) -> str:
    """``Type: first line of the message``."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400] if text else type(error).__name__


def name_of(config: EnvironmentConfig) -> str:
    """The id the user typed, or the factory's ``module:name``."""
    if isinstance(config.id, str):
        return config.id
    module = getattr(config.id, "__module__", type(config.id).__module__)
    return f"{module}:{getattr(config.id, '__qualname__', type(config.id).__name__)}"


def registered(config: EnvironmentConfig) -> EnvSpec | None:
    """The Gymnasium registration of ``config.id``, or None for factories and callables.

    Raises:
      UserError: neither a registered id nor a factory that can be imported; names the nearest id.
    """
    if not isinstance(config.id, str):
        return None
    register_namespaces()
    if config.id in gymnasium.registry:
        return gymnasium.registry[config.id]
    if ":" not in config.id:
        raise UserError(f"unknown environment {config.id!r}{_nearest(config.id)}")
    module, _, name = config.id.partition(":")
    _import(module, config.id)
    return gymnasium.registry.get(name)  # `my_package:MyEnv-v0` registers its ids when imported


def factory_of(config: EnvironmentConfig) -> Factory:
    """The callable behind a factory id or a callable ``config.id``."""
    if not isinstance(config.id, str):
        return config.id
    module_name, _, path = config.id.partition(":")
    target: Any = _import(module_name, config.id)
    names = [name for name in dir(target) if not name.startswith("_")]
    for part in path.split("."):
        if not hasattr(target, part) and (module_name == "__main__" or "<" in path):
            raise UserError(
                f"environment {config.id!r} was defined in a script, a notebook or a function, where it cannot be "
                "found again: put it into a module"
            )
        if not hasattr(target, part):
            raise UserError(
                f"environment {config.id!r}: module {module_name} has no {path!r}{_hint(path, names)}"
            )
        target = getattr(target, part)
    if not callable(target):
        raise UserError(
            f"environment {config.id!r} is a {type(target).__name__}, not a function that returns one"
        )
    return target


def build(config: EnvironmentConfig, num_envs: int | None = None) -> gymnasium.Env | VectorEnv:
    """One ``gymnasium.Env``, or the ``VectorEnv`` of a factory that takes ``num_envs``.

    Raises:
      UserError: the environment cannot be constructed; says why in one line.
    """
    spec = registered(config)
    try:
        made = _build_registered(spec, config) if spec is not None else _build_factory(config, num_envs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"environment {name_of(config)!r} cannot be made: {one_line(error)}") from error
    if not isinstance(made, gymnasium.Env | VectorEnv):
        wanted = "a gymnasium.Env or gymnasium.vector.VectorEnv"
        raise UserError(f"environment {name_of(config)!r} gave a {type(made).__name__}, not {wanted}")
    return made


def build_single(config: EnvironmentConfig) -> gymnasium.Env:
    """One ``gymnasium.Env``; refuses factories of vector environments. Picklable by reference, for workers."""
    made = build(config, 1)
    if isinstance(made, VectorEnv):
        made.close()
        raise UserError(f"environment {name_of(config)!r} is a VectorEnv: use environment.backend=vector")
    return made


def register_namespaces() -> None:
    """Make ``ALE/...`` and ``redline/...`` ids known to Gymnasium."""
    import ale_py

    from redline.environments import tasks

    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)
    tasks.register()


def _build_registered(spec: EnvSpec, config: EnvironmentConfig) -> gymnasium.Env:
    kwargs = dict(config.kwargs)
    if "mujoco" in str(spec.entry_point):
        _hear_mujoco()
    modes = getattr(load_env_creator(spec.entry_point), "metadata", {}).get("render_modes", ())  # type: ignore[arg-type]
    if "rgb_array" in modes:
        kwargs.setdefault("render_mode", "rgb_array")
    # An own time limit counts agent steps, Gymnasium's wrapper frames: never both.
    limit = -1 if config.time_limit is not None else None
    return gymnasium.make(spec, max_episode_steps=limit, disable_env_checker=True, **kwargs)


def _hear_mujoco() -> None:
    """Turn MuJoCo's warnings into Python's, and drop those on deprecated model files, which no user can mend.

    Left alone it prints each of them for every copy, and writes a MUJOCO_LOG.TXT wherever the user stands.
    """
    try:
        import mujoco
    except ImportError:
        return  # making the environment says what is missing
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_mujoco_warning)


def _mujoco_warning(text: str) -> None:
    if "deprecated" not in text:
        warnings.warn(f"MuJoCo: {text}", RuntimeWarning, stacklevel=1)


def _build_factory(config: EnvironmentConfig, num_envs: int | None) -> Any:
    factory = factory_of(config)
    kwargs = dict(config.kwargs)
    if num_envs is not None and takes_num_envs(factory):
        kwargs.setdefault("num_envs", num_envs)
    return factory(**kwargs)


def takes_num_envs(factory: Factory) -> bool:
    """Whether a factory has a parameter called ``num_envs``."""
    try:
        return "num_envs" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # builtins and extension types carry no signature
        return False


def _import(module: str, identifier: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UserError(f"environment {identifier!r}: cannot import {module!r}: {one_line(error)}") from error


def _nearest(identifier: str) -> str:
    """A suggestion: the same name in another version or namespace before a merely similar spelling."""
    names = list(gymnasium.registry)
    bare = re.sub(r"-v\d+$", "", identifier.rsplit("/", 1)[-1]).lower()
    same = [name for name in names if re.sub(r"-v\d+$", "", name.rsplit("/", 1)[-1]).lower() == bare]
    if same:
        newest = max(same, key=lambda name: int(name.rsplit("-v", 1)[-1]) if "-v" in name else -1)
        return f"; did you mean {newest}?"
    return _hint(identifier, names)


def _hint(word: str, names: list[str]) -> str:
    by_lower = {name.rsplit("/", 1)[-1].lower(): name for name in names}
    by_lower |= {name.lower(): name for name in names}  # a whole name before the last part of another
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""
