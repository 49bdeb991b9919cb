"""What every test gets: one compute thread, fixed seeds, and a look at what it left behind."""

from __future__ import annotations

import os

# Before numpy and torch are first imported, here and in every process that a test starts.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import itertools
import random
import signal
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.leaks import TAG, Watch

torch.set_num_threads(1)
# What this machine's user has measured is none of a test's business; the folder is made by whoever writes into it.
os.environ["REDLINE_CACHE"] = os.path.join(tempfile.gettempdir(), f"redline-no-cache-{os.getpid()}")
if threading.current_thread() is threading.main_thread():
    # A suite started in the background inherits that Ctrl-C is ignored, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
_counter = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_leaks_from_the_session() -> Iterator[None]:
    """Fixtures of wide scope outlive the tests that used them; by the end of the session they too are gone."""
    watch = Watch(f"{os.getpid()}-")
    yield
    leaks = watch.leaks()
    if leaks:
        pytest.fail("the session left behind: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """No test leaves a process, a thread or a shared memory segment behind, whether it passed or failed."""
    tag = f"{os.getpid()}-{next(_counter)}"
    before = os.environ.get(TAG)
    os.environ[TAG] = tag + ";"
    watch = Watch(tag + ";")
    yield
    leaks = watch.leaks()
    if before is None:
        del os.environ[TAG]
    else:
        os.environ[TAG] = before
    if leaks:
        pytest.fail("left behind: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU, only tests marked ``gpu`` see it: the others ask for what a CPU gives bit for bit."""
    if "gpu" not in request.keywords and torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for processes that the test starts


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The global generators start alike in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 what a test's library may draw from
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none; roles in processes, seconds each, are no quick tests."""
    for item in items:
        if "tests/runtime/" in item.nodeid and "process" in item.name:
            item.add_marker(pytest.mark.slow)
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
