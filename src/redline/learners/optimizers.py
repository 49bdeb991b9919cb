"""Optimisers of the actor-learner papers that torch has in another form, each over one flat piece of the weights.

None waits for a number from the device: all can be recorded as CUDA graphs, with the rate in a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from redline.learners.config import LearnerConfig

INSIDE = ("square", "mean", "momentum")  # what RMSProp keeps, by whether epsilon is inside the root
OUTSIDE = ("square_avg", "grad_avg", "momentum_buffer")


class InsideRMSprop(torch.optim.Optimizer):
    """RMSProp with epsilon inside the root: theta <- theta - lr d / sqrt(g + epsilon), g <- decay g + (1 - decay) d^2.

    Mnih et al. 2016 (A3C) and, being TensorFlow's, IMPALA and Ape-X; torch adds epsilon to the root.
    ``centered`` subtracts the square of d's running mean from g (Graves 2013); ``momentum`` gathers directions as
    torch's does. g starts at 0, where TensorFlow starts it at 1.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float | Tensor,
        *,
        decay: float = 0.99,
        epsilon: float = 0.1,
        centered: bool = False,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(weights, {"lr": lr})
        self.decay, self.epsilon, self.centered, self.momentum = decay, epsilon, centered, momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along ``grad`` of every parameter; ``closure`` is not called."""
        for group in self.param_groups:
            for weights in group["params"]:
                _move(weights, self._direction(weights, weights.grad), group["lr"])

    def _direction(self, weights: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weights]
        if not state:
            names = ["square", *["mean"] * self.centered, *["momentum"] * (self.momentum > 0)]
            state.update({name: torch.zeros_like(weights) for name in names})
        square = state["square"].mul_(self.decay).addcmul_(gradient, gradient, value=1.0 - self.decay)
        if self.centered:
            mean = state["mean"].lerp_(gradient, 1.0 - self.decay)
            # Rounding may carry the difference below 0 where gradients hardly change.
            denominator = square.addcmul(mean, mean, value=-1.0).clamp_(min=0.0).add_(self.epsilon).sqrt_()
        else:
            denominator = square.add(self.epsilon).sqrt_()
        if self.momentum > 0:
            return state["momentum"].mul_(self.momentum).addcdiv_(gradient, denominator)
        return torch.div(gradient, denominator, out=denominator)


class Adagrad(torch.optim.Optimizer):
    """theta <- theta - lr d / (sqrt(sum of d^2) + epsilon): DistBelief's and Gorila's (Duchi et al. 2011).

    As torch's, which reads its step count back from the device at every step.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float | Tensor, *, epsilon: float = 1e-10
    ) -> None:
        super().__init__(weights, {"lr": lr})
        self.epsilon = epsilon

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along ``grad`` of every parameter; ``closure`` is not called."""
        for group in self.param_groups:
            for weights in group["params"]:
                state, gradient = self.state[weights], weights.grad
                if not state:
                    state["square"] = torch.zeros_like(weights)
                square = state["square"].addcmul_(gradient, gradient)
                denominator = square.sqrt().add_(self.epsilon)
                _move(weights, torch.div(gradient, denominator, out=denominator), group["lr"])


class SGD(torch.optim.Optimizer):
    """theta <- theta - lr d. As torch's, which reads a rate in a tensor back from the device at every step."""

    def __init__(self, weights: Iterable[nn.Parameter], lr: float | Tensor) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step along ``grad`` of every parameter; ``closure`` is not called."""
        for group in self.param_groups:
            for weights in group["params"]:
                _move(weights, weights.grad, group["lr"])


def _move(weights: Tensor, direction: Tensor, lr: float | Tensor) -> None:
    weights.sub_(direction * lr) if isinstance(lr, Tensor) else weights.sub_(direction, alpha=lr)


def make(config: LearnerConfig, weights: nn.Parameter, lr: float | Tensor, *, capturable: bool) -> Any:
    """The optimiser that a configuration names; ``capturable``: its steps will be recorded as a CUDA graph."""
    if config.optimizer == "adam":
        return torch.optim.Adam([weights], lr=lr, eps=config.epsilon, fused=True, capturable=capturable)
    if config.optimizer == "sgd":
        return SGD([weights], lr)
    if config.optimizer == "adagrad":
        return Adagrad([weights], lr, epsilon=config.epsilon)
    if config.epsilon_inside:
        return InsideRMSprop(
            [weights],
            lr,
            decay=config.decay,
            epsilon=config.epsilon,
            centered=config.centered,
            momentum=config.momentum,
        )
    return torch.optim.RMSprop(
        [weights],
        lr=lr,
        alpha=config.decay,
        eps=config.epsilon,
        centered=config.centered,
        momentum=config.momentum,
        capturable=capturable,
    )


def kernels_for(config: LearnerConfig, device: torch.device) -> Any:
    """The module of fused kernels where it has this optimiser, on the CPU and with Numba; else None."""
    if device.type != "cpu":
        return None
    try:
        from redline.learners import fused  # late: Numba takes half a second
    except ImportError:
        return None
    return fused if config.optimizer in fused.FUSED else None


def statistics_of(config: LearnerConfig) -> tuple[str, ...]:
    """What a configuration's optimiser keeps of the past for every coordinate, by name. Steps are counted apart."""
    if config.optimizer == "adam":
        return ("exp_avg", "exp_avg_sq")
    if config.optimizer == "sgd":
        return ()
    if config.optimizer == "adagrad":
        return ("square",)
    square, mean, momentum = INSIDE if config.epsilon_inside else OUTSIDE
    return (square, *[mean] * config.centered, *[momentum] * (config.momentum > 0))


def shared_optimizer(
    config: LearnerConfig, weights: Tensor, gradient: Tensor, statistics: Mapping[str, Tensor]
) -> Any:
    """The configured optimiser stepping ``weights`` f32[N] in place by ``gradient`` f32[N].

    Its per-coordinate ``statistics`` (f32[N] by the names of ``statistics_of``) are the tensors given, in place too, so
    whoever has the same memory shares them. Adam's count of steps is this optimiser's own.
    """
    parameter = nn.Parameter(weights)
    parameter.grad = gradient
    if (fused := kernels_for(config, weights.device)) is not None:
        made = fused.make(config, parameter, config.learning_rate)
    else:
        made = make(config, parameter, config.learning_rate, capturable=False)
    names = statistics_of(config)
    if names:
        made.state[parameter] = {"step": torch.zeros(()), **{name: statistics[name] for name in names}}
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def set_steps(optimizer: torch.optim.Optimizer, steps: float) -> None:
    """Go on as after ``steps`` steps."""
    for each in optimizer.state.values():
        if "step" in each:
            each["step"].fill_(steps)
