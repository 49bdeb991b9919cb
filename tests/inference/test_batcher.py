"""Who is served together: deadlines are kept, nobody starves, and groups in lock-step take turns, whole."""

from __future__ import annotations

import random

import numpy as np
import pytest

from redline.inference.batcher import ABSENT, ASKING, RESTING, STEPPING, Crowd, Dynamic, LockStep


def crowd_of(*doing: int) -> Crowd:
    crowd = Crowd(len(doing), np.zeros(len(doing), np.int64))
    crowd.doing[:] = doing
    return crowd


def test_a_request_waits_for_company_until_its_deadline_and_no_longer() -> None:
    batcher = Dynamic(crowd_of(ASKING, STEPPING), largest=0, patience=2.0)
    batcher.add(0, now=10.0)
    assert batcher.due(10.0) == []
    assert batcher.until(10.5) == pytest.approx(1.5)
    assert batcher.due(11.999) == []
    assert batcher.due(12.0) == [0]
    assert batcher.until(12.0) is None


def test_a_deadline_of_its_own_takes_the_others_along() -> None:
    batcher = Dynamic(crowd_of(ASKING, ASKING, STEPPING), largest=0, patience=5.0)
    batcher.add(1, now=0.0)
    batcher.add(0, now=1.0, patience=0.5)
    assert batcher.until(1.0) == pytest.approx(0.5)
    assert batcher.due(1.4) == []
    assert batcher.due(1.5) == [0, 1]


def test_nobody_is_waited_for_when_nobody_else_can_ask() -> None:
    crowd = crowd_of(ASKING, ASKING, RESTING, ABSENT)
    batcher = Dynamic(crowd, largest=0, patience=100.0)
    batcher.add(1, now=0.0)
    batcher.add(0, now=0.0)
    assert batcher.due(0.0) == [0, 1]


def test_a_batch_is_never_larger_than_allowed_and_those_whose_time_is_up_go_first() -> None:
    crowd = Crowd(9, np.zeros(9, np.int64))
    crowd.doing[:] = ASKING
    batcher = Dynamic(crowd, largest=4, patience=1.0)
    for now, worker in enumerate([8, 3, 5, 0, 7, 1]):
        batcher.add(worker, float(now))
    assert batcher.due(5.0) == [0, 3, 5, 8]  # the first four to ask, in the order of their numbers
    assert batcher.due(5.0) == [1, 7]
    assert batcher.due(5.0) == []


def test_one_that_asks_rarely_is_served_among_many_that_ask_always() -> None:
    """64 workers ask again at once; worker 0 asks now and then. It is never passed over by more than one round."""
    crowd = Crowd(65, np.zeros(65, np.int64))
    crowd.doing[:] = STEPPING
    batcher = Dynamic(crowd, largest=8, patience=0.0)
    rng, now, asked = random.Random(0), 0.0, None
    for worker in range(1, 65):
        batcher.add(worker, now)
    longest = 0
    for turn in range(2000):
        now += 1.0
        if asked is None and rng.random() < 0.05:
            batcher.add(0, now)
            asked = turn
        batch = batcher.due(now)
        assert len(batch) == 8
        if 0 in batch:
            assert asked is not None
            longest, asked = max(longest, turn - asked), None
        for worker in batch:
            if worker:
                batcher.add(worker, now + rng.random())
    assert 0 < longest <= 65 // 8 + 1


def test_removed_requests_are_not_served() -> None:
    batcher = Dynamic(crowd_of(ASKING, ASKING), largest=0, patience=0.0)
    batcher.add(0, 0.0)
    batcher.add(1, 0.0)
    batcher.remove(0)
    batcher.remove(0)
    assert batcher.due(0.0) == [1]


def test_groups_take_turns_and_are_served_whole() -> None:
    crowd = crowd_of(ASKING, STEPPING, ASKING, ASKING)
    lock = LockStep(crowd, [(0, 2), (2, 4)])
    assert lock.due(0.0) == [], "group 1 is whole, but it is not its turn"
    crowd.doing[1] = ASKING
    assert lock.due(0.0) == [0, 1]
    crowd.doing[:2] = STEPPING
    assert lock.due(0.0) == [2, 3]
    crowd.doing[2:] = STEPPING
    assert lock.due(0.0) == []


@pytest.mark.parametrize("missing", [ABSENT, RESTING, STEPPING])
def test_whoever_is_missing_is_waited_for(missing: int) -> None:
    assert LockStep(crowd_of(ASKING, missing), [(0, 2)]).due(0.0) == []


def test_those_who_wait_for_the_learner_are_not_waited_for_while_another_catches_up() -> None:
    crowd = crowd_of(RESTING, ASKING, RESTING)
    crowd.done[:] = [1, 0, 1]
    lock = LockStep(crowd, [(0, 2), (2, 3)])
    assert lock.due(0.0) == [1]
    crowd.doing[1] = STEPPING
    assert lock.due(0.0) == [], "group 1 has nobody to serve, and group 0 steps"
    crowd.doing[1] = ASKING
    assert lock.due(0.0) == [1]
