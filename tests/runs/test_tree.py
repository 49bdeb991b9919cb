"""Any tree of data survives the way through safetensors and JSON, with its types."""

from __future__ import annotations

import io
import json
import math
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from redline.runs.checkpoint import load_checkpoint, save_checkpoint
from redline.runs.rng import global_rng_state, go_on_from, load_global_rng_state, load_rng_state, rng_state
from redline.runs.tensors import read_tensors, write_tensors
from redline.runs.tree import join, split
from redline.types import RunError

TORCH_TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]
TORCH_TYPES += [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]

dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
    hnp.unicode_string_dtypes(max_len=4),
    hnp.datetime64_dtypes(),
)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
arrays = hnp.arrays(dtypes, shapes)
tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 99, shape, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    ),
    st.sampled_from(TORCH_TYPES),
    shapes,
    st.integers(0, 9),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    hnp.arrays(dtypes, ()).map(lambda array: array[()]),
    st.integers(2**63, 2**300),
)
keys = st.one_of(
    st.text(max_size=4), st.sampled_from(["a/b", "a", "$leaf", "__metadata__"]), st.integers(-3, 3)
)
trees = st.recursive(
    st.one_of(scalars, arrays, tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=8,
)


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, float):
        assert repr(a) == repr(b)
    else:
        assert a == b


@settings(max_examples=200, deadline=None, derandomize=True)
@given(trees)
def test_round_trip(tree: Any) -> None:
    values, leaves = split(tree)
    file = io.BytesIO()
    checksum = write_tensors(file, leaves)
    file.seek(0)
    loaded, found = read_tensors(file)
    assert found == checksum == zlib.crc32(file.getvalue())
    assert_same(join(json.loads(json.dumps(values, allow_nan=False)), loaded), tree)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(trees)
def test_round_trip_through_files(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(load_checkpoint(save_checkpoint(Path(folder), 0, {"tree": tree}))["tree"], tree)


def test_leaves_that_are_not_contiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.runs.tensors._BLOCK", 64)  # several blocks
    array = np.arange(6000, dtype=np.int32).reshape(20, 30, 10)
    tensor = torch.from_numpy(array.copy())
    complex_tensor = torch.randn(5, 6, dtype=torch.complex64)
    state = {
        "transposed": array.transpose(2, 0, 1),
        "strided": array[::3, ::-1],
        "fortran": np.asfortranarray(array),
        "tensor": tensor.permute(1, 2, 0)[::2],
        "last": tensor[..., 3],
        "expanded": torch.ones(1, 3).expand(40, 3),
        "conjugate": complex_tensor.conj(),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, state))
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(loaded[name], value), name
        else:
            np.testing.assert_array_equal(loaded[name], value)


def test_loaded_leaves_can_be_written_to(tmp_path: Path) -> None:
    state = load_checkpoint(save_checkpoint(tmp_path, 0, {"a": np.zeros(3), "t": torch.zeros(3)}))
    state["a"] += 1
    state["t"].add_(1)
    assert state["a"].sum() == state["t"].sum() == 3


def test_structured_arrays(tmp_path: Path) -> None:
    array = np.array(
        [(1, 2.5, (3, 4)), (5, 6.5, (7, 8))], np.dtype([("a", "u1"), ("b", "<f8"), ("c", "<i2", (2,))])
    )
    loaded = load_checkpoint(save_checkpoint(tmp_path, 0, {"x": array}))["x"]
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    state = {
        "network": {"w": torch.randn(3, 5), "n": torch.tensor(7), "h": torch.ones(3, dtype=torch.bfloat16)}
    }
    path = save_checkpoint(tmp_path, 0, state) / "state.safetensors"
    loaded = safetensors.torch.load_file(path)
    assert set(loaded) == {"network/w", "network/n", "network/h"}
    for name, tensor in state["network"].items():
        assert torch.equal(loaded[f"network/{name}"], tensor)
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.ones((2, 2)), "empty": np.zeros((0, 3), np.int64)}
    loaded_arrays = safetensors.numpy.load_file(save_checkpoint(tmp_path, 1, arrays) / "state.safetensors")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded_arrays[name], array)


@pytest.mark.parametrize("content", [b"", b"abc", (2**60).to_bytes(8, "little"), b"\2\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file_is_refused(content: bytes) -> None:
    with pytest.raises(RunError):
        read_tensors(io.BytesIO(content))


def test_signed_zeros_and_infinities_keep_their_sign(tmp_path: Path) -> None:
    state = load_checkpoint(save_checkpoint(tmp_path, 0, {"z": -0.0, "i": -math.inf, "n": math.nan}))
    assert math.copysign(1, state["z"]) == -1
    assert state["i"] == -math.inf
    assert math.isnan(state["n"])


def test_writing_copies_nothing_large() -> None:
    class Watching(io.RawIOBase):
        """Keeps where the bytes came from, not the bytes."""

        addresses: list[int] = []  # noqa: RUF012

        def write(self, data: Any) -> int:
            view = np.frombuffer(data, np.uint8)
            self.addresses.append(view.__array_interface__["data"][0])
            return len(view)

    array, tensor = np.zeros((100, 1000), np.uint8), torch.zeros(1000)
    file = Watching()
    write_tensors(file, {"array": array, "tensor": tensor})  # type: ignore[arg-type]
    assert array.__array_interface__["data"][0] in file.addresses
    assert tensor.data_ptr() in file.addresses


@pytest.mark.parametrize("kind", ["numpy", "mersenne"])
def test_generators_go_on_where_they_were(tmp_path: Path, kind: str) -> None:
    make: Any = {
        "numpy": np.random.default_rng,
        "mersenne": lambda seed: np.random.Generator(np.random.MT19937(seed)),
    }[kind]
    first, second = make(3), make(8)
    first.normal(size=5)
    state = load_checkpoint(save_checkpoint(tmp_path, 0, rng_state(first)))
    load_rng_state(second, state)
    assert second.normal(size=5).tolist() == first.normal(size=5).tolist()


def test_a_state_whose_small_integers_were_left_as_they_are_is_read() -> None:
    """As replays of older checkpoints have it."""
    first, second = np.random.default_rng(3), np.random.default_rng(8)
    first.integers(0, 2**31, dtype=np.int32)  # half of a draw is kept for the next
    state = first.bit_generator.state
    older = {**state, "state": {name: str(value) for name, value in state["state"].items()}}
    load_rng_state(second, older)
    assert second.integers(0, 2**31, 5).tolist() == first.integers(0, 2**31, 5).tolist()


def test_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    random.gauss(0, 1)
    state = load_checkpoint(save_checkpoint(tmp_path, 0, global_rng_state()))
    expected = draw()
    draw()
    load_global_rng_state(state)
    assert draw() == expected


def test_a_generator_keeps_its_seed_where_the_state_is_of_another_kind_of_device() -> None:
    first, second = (torch.Generator().manual_seed(seed) for seed in (3, 8))
    fresh, on_a_gpu = second.get_state(), torch.zeros(16, dtype=torch.uint8)  # its seed and how far it is
    assert not go_on_from(second, on_a_gpu)
    assert torch.equal(second.get_state(), fresh)
    assert go_on_from(second, first.get_state())
    assert torch.equal(torch.rand(3, generator=second), torch.rand(3, generator=first))
