"""Playing a policy without learning: evaluation and pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from redline import environments, networks
from redline.environments.spaces import MASK, ActionAdapter, presented
from redline.learners.fitting import check_network
from redline.learners.flat import flatten_parameters
from redline.runtime.experiment import Experiment, make_algorithm
from redline.types import (
    ActInput,
    Environment,
    Episode,
    Step,
    Tree,
    UserError,
    tree_leaves,
    tree_map,
)

AfterStep = Callable[[Environment, Step], None]


class Player:
    """Acts for B environments with a network, carrying recurrent state from step to step."""

    def __init__(
        self, algorithm: Any, network: Any, batch: int, generator: torch.Generator, *, explore: bool = False
    ) -> None:
        self.algorithm, self.network, self.explore = algorithm, network, explore
        self.generator, self.device = generator, generator.device
        self.state: Tree = network.initial_state(batch)
        self.reset = torch.ones(batch, dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def act(self, observation: Tree, action_mask: np.ndarray | None = None) -> np.ndarray:
        """Actions for observations [B, ...] as the environment takes them; call ``ended`` after each step."""
        seen = tree_map(lambda x: torch.from_numpy(np.ascontiguousarray(x)).to(self.device), observation)
        seen = tree_map(lambda x: x.float() if x.dtype == torch.float64 else x, seen)
        mask = None if action_mask is None else torch.from_numpy(action_mask).to(self.device)
        x = ActInput(seen, self.state, self.reset, mask, self.generator, 2**62, self.explore)
        record, self.state = self.algorithm.act(self.network, x)
        self.reset = torch.zeros_like(self.reset)
        return self.algorithm.to_environment(record["action"])

    def ended(self, done: np.ndarray) -> None:
        """Say which environments' episodes ended bool[B]: their recurrent state starts anew."""
        self.reset = torch.from_numpy(np.asarray(done, dtype=bool)).to(self.device)


def evaluate(
    experiment: Experiment,
    algorithm: Any,
    network: Any,
    episodes: int,
    seed: int,
    *,
    explore: bool = False,
    after_step: AfterStep | None = None,
    num_envs: int | None = None,
) -> list[Episode]:
    """Play ``episodes`` whole episodes with fresh environments.

    Every environment plays its equal share, so that short episodes are not counted more often than long ones.
    ``after_step`` sees every step, and may raise to break off.
    """
    batch = min(episodes, num_envs or 8)
    environment = environments.make(experiment.environment, batch)
    quota = [episodes * (k + 1) // batch - episodes * k // batch for k in range(batch)]
    finished: list[Episode] = []
    try:
        generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
        player = Player(algorithm, network, batch, generator, explore=explore)
        step = environment.reset(seed)
        while any(quota):
            environment.send(player.act(step.observation, step.action_mask))
            step = environment.recv()
            player.ended(step.terminated | step.truncated)
            for episode in step.episodes:
                if quota[episode.index] > 0:
                    quota[episode.index] -= 1
                    finished.append(episode)
            if after_step is not None:
                after_step(environment, step)
    finally:
        environment.close()
    return finished


class Policy:
    """A trained policy: ``act`` for one observation or a batch of them. Loaded on the CPU in f32."""

    def __init__(self, experiment: Experiment, state: dict[str, Any]) -> None:
        self.experiment = experiment
        self.spec = environments.probe(experiment.environment)
        self.algorithm: Any = make_algorithm(experiment, self.spec)
        network = networks.build(self.spec, experiment.network, self.algorithm.network_kind)
        flat = flatten_parameters(network)
        check_network(state["learner"], flat, network)
        flat.copy_(state["learner"]["weights"])
        for name, buffer in network.named_buffers():
            buffer.copy_(state["learner"]["buffers"][name])
        self.network = network.requires_grad_(False)
        self.steps = int(state["counters"]["steps"])
        self._generator = torch.Generator().manual_seed(0)  # outlives ``reset``: episodes explore differently
        self.reset()

    def reset(self) -> None:
        """Forget recurrent state: call at an episode's start."""
        self._player: Player | None = None

    def act(
        self, observation: Tree, *, action_mask: np.ndarray | None = None, explore: bool = False
    ) -> np.ndarray:
        """The action for one observation [...] (or actions for a batch [B, ...]), as the environment takes it.

        Observations are the environment's own, too: a Tuple as a tuple, a Discrete from its own start. Without an
        ``action_mask``, that of a Dict observation is taken.
        """
        if action_mask is None and self.spec.action_mask and isinstance(observation, dict):
            action_mask = observation.get(MASK)
        observation = self._presented(observation)
        single = self._is_single(observation)
        batch = tree_map(lambda x: np.asarray(x)[None] if single else np.asarray(x), observation)
        size = len(next(tree_leaves(batch)))
        mask = None if action_mask is None else self._mask(action_mask, size)
        if self._player is None or len(self._player.reset) != size:
            self._player = Player(self.algorithm, self.network, size, self._generator)
        self._player.explore = explore
        action = self._player.act(batch, mask)
        if self.spec.own is not None:
            action = ActionAdapter(self.spec.own[1], size)(action)
        return action[0] if single else action

    def _presented(self, observation: Tree) -> Tree:
        if self.spec.own is None:
            return observation
        try:
            return presented(self.spec.own[0], observation)
        except (KeyError, IndexError, TypeError):
            space, given = self.spec.own[0], type(observation).__name__
            keys = sorted(observation) if isinstance(observation, dict) else given
            raise UserError(f"observation is {keys}, {self.spec.name} gives {space}") from None

    def _mask(self, given: Any, size: int) -> np.ndarray:
        """bool[B, A] of the environment's own masks, which may be integers and have the shape of its actions."""
        mask, wanted = np.asarray(given, dtype=bool), sum(self.spec.choices)
        if mask.size != size * wanted:
            raise UserError(
                f"action_mask has shape {list(mask.shape)}, {self.spec.name} has {wanted} actions to mask"
            )
        return mask.reshape(size, wanted)

    def _is_single(self, observation: Tree) -> bool:
        space: Any = self.spec.observation
        while isinstance(observation, dict):
            key = next(iter(observation))
            observation, space = observation[key], space[key]
        shape, own = np.shape(observation), tuple(space.shape)
        if shape == own:
            return True
        if shape[1:] == own:
            return False
        raise UserError(
            f"observation has shape {list(shape)}, {self.spec.name} gives {list(own)} or [B, *{list(own)}]"
        )
