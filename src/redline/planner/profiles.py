"""GPUs that nobody has measured here: what their makers publish, and what a small network would make of it.

Dense rates, without sparsity, of NVIDIA's data sheets and architecture papers: H200 SXM (2024), H100 SXM (2023), A100
80 GB SXM (2021), L4 (2023), GeForce RTX 4090 ("Ada GPU architecture", 2022), Tesla V100 SXM2 (2018), Tesla T4 (2018).
V100 and T4 multiply neither bf16 nor tf32: they have one place, ``cuda fp32``.

A pass through the network is reckoned as::

    kernels x launch + FLOPs / (published rate x efficiency) + bytes of observations / (published rate x efficiency)

How far a network of a few million parameters stays below the published rate is an assumption, deliberately low: its
matrices are too small to fill the chip, and its activations travel to memory between layers. Networks of 10 to 40 MFLOP
per observation reach a few percent of tensor cores, and more of the far slower ordinary ones. So the answer is good to
about a factor of two either way (``ERROR``); whoever has the GPU runs ``redline plan`` on it and saves the machine.
Looked at once, for the Nature CNN on an H200 (docs/results, "On a GPU"): acting within 20% at every size, a whole PPO
batch 11% (bf16) and 30% (fp32) too slow, a single recorded training pass of few samples three times too slow.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from redline.planner.costs import GPU, Curve, Machine
from redline.planner.measured import Costs
from redline.types import UserError

ERROR = 0.5  # relative, of every rate that is reckoned from published numbers
TENSOR_EFFICIENCY = 0.04  # of the published dense rate of tensor cores (bf16, tf32)
PLAIN_EFFICIENCY = 0.2  # of the published rate of ordinary cores (fp32)
BUS_EFFICIENCY = 0.6  # of the bus's published rate, from memory that is not always pinned
KERNELS = 30  # of one forward pass, unless counted: a few layers, casts, the choice of an action
BACKWARD = 4  # times as many kernels for forward, loss, backward and optimiser
BACKWARD_FLOPS = 3.0  # times a forward pass: the gradient asks for two more products of the same size
COPY = 10e-6  # seconds before a copy to or from the device begins
SIZES = tuple(2**power for power in range(15))  # of the curves that are reckoned


@dataclass(frozen=True)
class Profile:
    """One GPU as published."""

    bf16: float  # dense TFLOP/s of tensor cores; 0: it has none for bf16
    fp32: float  # dense TFLOP/s of tf32 where it has that, else of ordinary fp32
    memory: int  # bytes
    bus: float  # bytes/s each way: PCI Express, 16 lanes
    tensor: bool = True  # whether ``fp32`` is tf32


PUBLISHED: dict[str, Profile] = {
    "h200": Profile(989.0, 494.0, 141 * 10**9, 64e9),
    "h100": Profile(989.0, 494.0, 80 * 10**9, 64e9),
    "a100": Profile(312.0, 156.0, 80 * 10**9, 32e9),
    "l4": Profile(121.0, 60.0, 24 * 10**9, 32e9),
    "rtx4090": Profile(165.0, 82.6, 24 * 10**9, 32e9),
    "v100": Profile(0.0, 15.7, 32 * 10**9, 16e9, tensor=False),
    "t4": Profile(0.0, 8.1, 16 * 10**9, 16e9, tensor=False),
}


def published(name: str, count: int = 1) -> GPU:
    """The GPU of a name, from its published numbers.

    Errors:
        UserError: no such profile; names the nearest.
    """
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"GPU '{name}' has no published profile: {hint}valid: {', '.join(PUBLISHED)}, none")
    profile = PUBLISHED[name]
    return GPU(
        name,
        count,
        tflops=profile.bf16 or profile.fp32,
        transfer=profile.bus * BUS_EFFICIENCY,
        memory=profile.memory,
    )


def kind(gpu: GPU) -> str | None:
    """The profile that a GPU goes by, also where a driver spells it: ``NVIDIA H100 80GB HBM3`` is ``h100``."""
    words = gpu.name.lower().replace("-", " ").replace("rtx 4090", "rtx4090").split()
    return next((name for name in PUBLISHED if name in words), None)


def same(one: GPU | None, other: GPU | None) -> bool:
    """Whether two are of one kind, however many."""
    if one is None or other is None:
        return one is other
    return one.name == other.name or (kind(one) is not None and kind(one) == kind(other))


def speeds(gpu: GPU) -> dict[str, float]:
    """Place -> FLOP/s that a small network is taken to reach there."""
    profile = PUBLISHED.get(kind(gpu) or "")
    if profile is None:  # somebody's own: tf32 is half as fast as bf16 on every GPU that has both
        profile = Profile(gpu.tflops, gpu.tflops / 2, gpu.memory, gpu.transfer)
    rates = {"cuda fp32": profile.fp32 * (TENSOR_EFFICIENCY if profile.tensor else PLAIN_EFFICIENCY)}
    if profile.bf16:
        rates["cuda bf16"] = profile.bf16 * TENSOR_EFFICIENCY
    listed = profile.bf16 or profile.fp32
    given = gpu.tflops / listed if gpu.tflops and listed else 1.0  # a file may say better than the data sheet
    return {place: rate * given * 1e12 for place, rate in rates.items()}


def with_gpu(costs: Costs, gpu: GPU) -> Costs:
    """Costs with the GPU's places beside the CPU's, reckoned from its published (or given) rates.

    Bringing observations to the device stands apart, in ``transfer``; a whole batch in ``learn`` includes it.
    ``Costs.estimated`` says how sure all this is.
    """
    costs = without_gpu(costs)
    flops = costs.flops or 2.0 * costs.parameters
    kernels = max(costs.kernels, KERNELS)  # on a CPU some are fused that a GPU is given one by one
    rates = speeds(gpu)
    launch = kernels * gpu.launch

    def curve(per_observation: float, fixed: float) -> Curve:
        return Curve(tuple((float(n), fixed + n * per_observation) for n in SIZES))

    moved = costs.observation_bytes / gpu.transfer
    act = {place: curve(flops / rate, launch + COPY) for place, rate in rates.items()}
    train = {place: curve(BACKWARD_FLOPS * flops / rate, BACKWARD * launch) for place, rate in rates.items()}
    passes, updates = sample_passes(costs), max(costs.updates, 1.0)
    learn = {
        place: {
            1: updates * (BACKWARD * launch)
            + costs.batch * passes * BACKWARD_FLOPS * flops / rate
            + COPY
            + costs.batch * moved
            + (act[place].at(costs.batch) if costs.estimate else 0.0)  # values to estimate returns from
        }
        for place, rate in rates.items()
    }
    told = "rates that another network reached on it" if gpu.measured and gpu.tflops else "published rates"
    notes = [f"{gpu.name}: not measured; from {told}, to within a factor of two"]
    if not costs.flops:
        notes.append(
            "the network's FLOPs were not counted: taken as two per parameter, too few for convolutions"
        )
    return replace(
        costs,
        act={**costs.act, **act},
        train={**costs.train, **train},
        learn={**costs.learn, **learn},
        transfer=Curve(((0.0, COPY), (1e9, COPY + 1e9 / gpu.transfer))),
        estimated={**costs.estimated, **dict.fromkeys(rates, ERROR)},
        notes=(*costs.notes, *notes),
    )


def rated(machine: Machine, costs: Costs) -> Machine:
    """The machine, its GPU with the rates that the network of ``costs`` was seen to reach on it, where it was seen.

    So that a file of it tells more than the data sheet: what other networks will do there is reckoned from them.
    """
    gpu, flops = machine.gpus, costs.flops or 2.0 * costs.parameters
    place = next((each for each in ("cuda bf16", "cuda fp32") if each in costs.train), None)
    if gpu is None or not gpu.measured or place is None or place in costs.estimated:
        return machine
    (first, seconds), *_ = costs.train[place].points
    (x0, y0), (x1, y1) = costs.train[place].points[-2:]
    if y1 <= y0:
        return machine  # launching is all that it takes
    rate = BACKWARD_FLOPS * flops * (x1 - x0) / (y1 - y0)
    unit = speeds(replace(gpu, tflops=1.0))[place]  # proportional to the rate given
    launch = max(seconds - first * (y1 - y0) / (x1 - x0), 0.0) / (BACKWARD * max(costs.kernels, KERNELS))
    return replace(machine, gpus=replace(gpu, tflops=rate / unit, launch=launch))


def without_gpu(costs: Costs) -> Costs:
    """Costs with the CPU's places alone."""

    def on_cpu(places: dict[str, Curve]) -> dict[str, Curve]:
        return {place: curve for place, curve in places.items() if not place.startswith("cuda")}

    return replace(
        costs,
        act=on_cpu(costs.act),
        train=on_cpu(costs.train),
        learn={place: each for place, each in costs.learn.items() if not place.startswith("cuda")},
        transfer=None,
        estimated={place: error for place, error in costs.estimated.items() if not place.startswith("cuda")},
    )


def sample_passes(costs: Costs) -> float:
    """How often each sample of a batch goes forward and backward: epochs.

    Where a batch is one update, a target network's pass is counted in: from what one CPU thread takes for the update,
    over what it takes for one such pass. Never more than two: an update is more than its passes.
    """
    if costs.updates > 1:
        return max(costs.minibatch * costs.updates / costs.batch, 1.0)
    place = next(iter(costs.learn))
    by_threads = costs.learn[place]
    threads = min(by_threads)
    seconds = by_threads[threads] * threads * (1 - costs.estimate)
    points = costs.train[place].points if place in costs.train else ()
    if len(points) < 2:
        return 1.0
    (x0, y0), (x1, y1) = points[0], points[-1]
    each = (y1 - y0) / (x1 - x0)  # of one more sample
    fixed = max(y0 - each * x0, 0.0)
    if each <= 0.0:
        return 1.0
    return min(max((seconds - fixed) / (costs.batch * each), 1.0), 2.0)
