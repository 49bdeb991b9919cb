"""One inference server acts by several policies, each of which gets weights of its own."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from redline import api
from redline.runtime.crew.weights import Publication, WeightStore
from redline.runtime.parts import assemble
from redline.runtime.serving.job import InferenceJob
from redline.runtime.serving.muster import muster_server

SETTINGS = [
    "parallel.architecture=seed",
    "parallel.copies=4",
    "sampler.num_envs=8",
    "parallel.queue=0",
    "learner.precision=fp32",
    "algorithm.unroll=10",
]


@pytest.mark.parametrize("runtime", ["threads", "processes"])
def test_each_policy_has_its_own_weights(runtime: str) -> None:
    """Weights of zeros value everything at the value head's bias: what is recorded tells whose weights acted."""
    settings = [*SETTINGS, f"parallel.runtime={runtime}"]
    parts = assemble(api.make_experiment("CartPole-v1", "a2c", overrides=settings))
    stores: list[WeightStore] = []

    def publish(number: int, bias: float, version: int) -> None:
        learner = parts.learner
        learner.flat.zero_()
        learner.network.value.bias.data.fill_(bias)  # type: ignore[union-attr, operator]
        stores[number].publish(Publication(learner).views(), version)

    def make_job(*given: Any) -> InferenceJob:
        job = InferenceJob(*given)
        other = WeightStore(job.weights[0].sizes, shared=runtime == "processes")
        stores.extend([*job.weights, other])
        publish(0, 3.0, 10)
        publish(1, 7.0, 20)
        return replace(job, weights=list(stores), assigned=[0, 1, 1, 0])

    muster = muster_server(parts, 1, make_job)
    try:
        for worker in range(4):
            muster.crew.tell(worker, 0)
        deadline, rounds = time.monotonic() + 60.0, [0] * 4
        while min(rounds) < 3:
            assert time.monotonic() < deadline, f"{rounds} unrolls"
            for worker, slot in muster.crew.wait(0.1):
                number = [0, 1, 1, 0][worker]
                unroll = muster.slots[worker].unrolls[slot]
                np.testing.assert_allclose(unroll.record["value"].numpy(), [3.0, 7.0][number], rtol=1e-6)
                assert unroll.policy_version is not None
                assert set(unroll.policy_version.flatten().tolist()) == {[10, 20][number]}
                rounds[worker] += 1
                muster.crew.tell(worker, slot)
    finally:
        muster.close()
        stores[1].close()
        parts.close()
