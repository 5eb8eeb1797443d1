from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_data import shared_data
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.bank.task import check_name
from supsup_runtime.bank.weights import kaiming_constant, seeded_weight
from supsup_runtime.data.sources import load_dataset
from supsup_runtime.data.streams import LAYOUTS, STREAM_KINDS, Layout, TaskData, make_stream
from supsup_runtime.errors import DataError
from tiny_data import ATOL, MEAN, STD, normalised, tiny


def assert_equal_tasks(a: TaskData, b: TaskData) -> None:
    assert (a.name, a.labels) == (b.name, b.labels)
    for part in ("train_x", "train_y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


# All kinds


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)], ids=["grey", "colour"])
@pytest.mark.parametrize("kind", STREAM_KINDS)
def test_what_every_task_promises(kind: str, shape: tuple[int, ...], layout: Layout) -> None:
    stream = make_stream(kind, tiny(*shape), num_tasks=3, layout=layout)
    channels = shape[2] if len(shape) == 3 else 1
    flat = (16 * channels,)
    assert stream.input_shape == (flat if layout == "flat" else (channels, 4, 4))
    assert (stream.kind, stream.num_tasks) == (kind, 3)
    for index in range(3):
        task = stream.task(index)
        assert task.name == stream.task_names[index] == check_name(task.name)
        assert len(task.labels) == stream.real_outputs
        for x, y in ((task.train_x, task.train_y), (task.test_x, task.test_y)):
            assert (x.dtype.name, y.dtype.name) == ("float32", "int64")
            assert x.shape == (len(y), *stream.input_shape)
            assert x.flags.c_contiguous
            assert set(y.tolist()) <= set(range(stream.real_outputs))


@pytest.mark.parametrize("kind", STREAM_KINDS)
def test_equal_arguments_give_equal_arrays_of_their_own(kind: str) -> None:
    data = tiny(4, 4)
    stream = make_stream(kind, data, num_tasks=2)
    first = stream.task(1)
    untouched = pickle.loads(pickle.dumps(first))  # noqa: S301 - our own bytes
    first.train_x[:] = 7
    first.train_y[:] = 0
    assert_equal_tasks(stream.task(1), untouched)
    assert_equal_tasks(make_stream(kind, tiny(4, 4), num_tasks=2).task(1), untouched)


@pytest.mark.parametrize("kind", STREAM_KINDS)
def test_without_the_training_part(kind: str) -> None:
    stream = make_stream(kind, tiny(4, 4), num_tasks=2, layout="image")
    whole, test_only = stream.task(1), stream.task(1, train=False)
    assert test_only.train_x.shape == (0, 1, 4, 4)
    assert (test_only.train_x.dtype.name, test_only.train_y.dtype.name) == ("float32", "int64")
    assert len(test_only.train_y) == 0
    np.testing.assert_array_equal(test_only.test_x, whole.test_x)
    np.testing.assert_array_equal(test_only.test_y, whole.test_y)


@pytest.mark.parametrize("kind", STREAM_KINDS)
def test_streams_travel_to_other_processes(kind: str) -> None:
    stream = make_stream(kind, tiny(4, 4), num_tasks=2)
    copy = pickle.loads(pickle.dumps(stream))  # noqa: S301 - our own bytes
    assert_equal_tasks(copy.task(1), stream.task(1))


@pytest.mark.parametrize("kind", STREAM_KINDS)
def test_image_layout_flattened_is_the_flat_layout(kind: str) -> None:
    data = tiny(4, 4, 3)
    flat = make_stream(kind, data, num_tasks=2).task(1)
    image = make_stream(kind, data, num_tasks=2, layout="image").task(1)
    np.testing.assert_array_equal(image.train_x.reshape(len(flat.train_x), -1), flat.train_x)


def test_flat_colour_images_are_channel_after_channel() -> None:
    data = tiny(4, 4, 3)
    task = make_stream("split", data, num_tasks=1, layout="image").task(0)
    expected = normalised(data.train_x).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(task.train_x, expected, rtol=0, atol=ATOL)


def test_float_values_are_normalised_in_float32() -> None:
    data = tiny(5, dtype="float32", scale=2.0)
    task = make_stream("split", data, num_tasks=1).task(0)
    x = (data.train_x / np.float32(2) - np.float32(MEAN)) / np.float32(STD)
    np.testing.assert_array_equal(task.train_x, x)


# Permuted


def test_permuted_task_is_the_formula() -> None:
    data = tiny(4, 3)
    task = make_stream("permuted", data, num_tasks=4, seed=5).task(3)
    order = np.random.RandomState(5 + 3).permutation(12)
    for x, raw in ((task.train_x, data.train_x), (task.test_x, data.test_x)):
        expected = normalised(raw.reshape(len(raw), 12)[:, order])
        np.testing.assert_allclose(x, expected, rtol=0, atol=ATOL)
    np.testing.assert_array_equal(task.train_y, data.train_y)
    assert (task.name, task.labels) == ("permuted-0003", ("0", "1", "2", "3", "4", "5"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)], ids=["grey", "colour"])
def test_permuted_tasks_see_the_same_images_in_their_order(
    shape: tuple[int, ...], layout: Layout
) -> None:
    stream = make_stream("permuted", tiny(*shape), num_tasks=3, seed=5, layout=layout)
    plain = stream.unpermuted()
    for index in range(3):
        task, order = stream.task(index), stream.order(index)
        for part in ("train", "test"):
            x = getattr(plain, f"{part}_x")
            seen = x.reshape(len(x), -1)[:, order].reshape(x.shape)
            np.testing.assert_array_equal(seen, getattr(task, f"{part}_x"))
            np.testing.assert_array_equal(getattr(plain, f"{part}_y"), getattr(task, f"{part}_y"))


def test_only_permuted_tasks_share_images() -> None:
    split, permuted = (make_stream(kind, tiny(4, 4), num_tasks=2) for kind in ("split", "permuted"))
    for shared in (split.unpermuted, lambda: split.order(0)):
        with pytest.raises(DataError, match=r"^split stream: must be permuted for tasks to share "):
            shared()
    for index in (-1, 2, "a"):
        with pytest.raises(DataError, match=r"^permuted stream: task index"):
            permuted.order(index)  # type: ignore[arg-type]  # refused


def test_permutation_is_frozen() -> None:
    """Banks trained on permuted tasks depend on these orders (and the shared masks do)."""
    orders = [np.random.RandomState(k).permutation(8).tolist() for k in range(2)]
    assert orders == [[6, 2, 1, 7, 3, 0, 5, 4], [7, 2, 1, 6, 0, 4, 3, 5]]


@given(
    seed=st.integers(0, 2**32 - 10),
    index=st.integers(0, 8),
    shape=st.sampled_from([(1,), (7,), (8, 8), (3, 3), (2, 3, 3)]),
)
def test_permutation_is_a_bijection(seed: int, index: int, shape: tuple[int, ...]) -> None:
    data = tiny(*shape)
    task = make_stream("permuted", data, num_tasks=9, seed=seed).task(index)
    plain = make_stream("split", data, num_tasks=1).task(0)
    np.testing.assert_array_equal(np.sort(task.train_x), np.sort(plain.train_x))


def test_seeds_shift_the_tasks() -> None:
    data = tiny(4, 4)
    a = make_stream("permuted", data, num_tasks=3, seed=0).task(2)
    b = make_stream("permuted", data, num_tasks=3, seed=1).task(1)
    np.testing.assert_array_equal(a.test_x, b.test_x)


@pytest.mark.parametrize(
    ("num_tasks", "last"),
    [(1, "permuted-0000"), (1000, "permuted-0999"), (1001, "permuted-1000")],
)
def test_permuted_names_sort(num_tasks: int, last: str) -> None:
    names = make_stream("permuted", tiny(4), num_tasks=num_tasks).task_names
    assert names[-1] == last
    assert list(names) == sorted(set(names))


# Rotated


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (4, 4, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rotation_by_nothing_is_the_identity(shape: tuple[int, ...], dtype: str) -> None:
    data = tiny(*shape, dtype=dtype)
    turned = make_stream("rotated", data, num_tasks=1).task(0)
    plain = make_stream("split", data, num_tasks=1).task(0)
    np.testing.assert_array_equal(turned.train_x, plain.train_x)


@pytest.mark.parametrize("side", [1, 4, 5])
def test_rotation_is_counter_clockwise(side: int) -> None:
    data = tiny(side, side)
    stream = make_stream("rotated", data, num_tasks=4, degrees=90, layout="image")
    for index, name in enumerate(stream.task_names):
        assert name == f"rotated-{90 * index:03}"
        expected = np.rot90(normalised(data.test_x), index, axes=(1, 2))
        # Linear interpolation in double at points that are off by rounding alone.
        np.testing.assert_allclose(stream.task(index).test_x[:, 0], expected, rtol=0, atol=ATOL)


def test_corners_that_turn_in_are_black() -> None:
    data = tiny(9, 9)
    task = make_stream("rotated", data, num_tasks=2, degrees=45, layout="image").task(1)
    np.testing.assert_allclose(task.test_x[:, 0, 0, 0], -MEAN / STD, rtol=0, atol=ATOL)


def test_channels_turn_alone() -> None:
    data = tiny(6, 6, 3)
    red = tiny(6, 6)
    red.train_x[:] = data.train_x[..., 0]
    whole = make_stream("rotated", data, num_tasks=2, layout="image").task(1)
    alone = make_stream("rotated", red, num_tasks=2, layout="image").task(1)
    np.testing.assert_array_equal(whole.train_x[:, :1], alone.train_x)


@pytest.mark.parametrize(
    ("num_tasks", "degrees", "names"),
    [
        (3, 7.5, ["rotated-000.0", "rotated-007.5", "rotated-015.0"]),
        (2, 0.25, ["rotated-000.00", "rotated-000.25"]),
        (7, 360 / 7, ["rotated-000.000", "rotated-051.429"]),
        (36, 10.0, ["rotated-000", "rotated-010"]),
        (1, 360.0, ["rotated-000"]),
    ],
)
def test_rotated_names(num_tasks: int, degrees: float, names: list[str]) -> None:
    got = make_stream("rotated", tiny(4, 4), num_tasks=num_tasks, degrees=degrees).task_names
    assert list(got[: len(names)]) == names


@given(st.integers(1, 360), st.floats(0.01, 360, allow_nan=False))
def test_rotated_names_sort(num_tasks: int, degrees: float) -> None:
    num_tasks = min(num_tasks, int(360 / degrees))
    names = make_stream("rotated", tiny(4, 4), num_tasks=num_tasks, degrees=degrees).task_names
    assert list(names) == sorted(set(names))


# Refusals


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("shuffled", {}, r"kind must be one of permuted, rotated, split, mixed, got 'shuffled'"),
        (
            "permuted",
            {"num_tasks": 0},
            r"permuted stream: num_tasks must be an integer in \[1, 1000000\], got 0",
        ),
        ("permuted", {"num_tasks": 10**9}, r"num_tasks must be an integer in"),
        ("permuted", {"seed": -1}, r"seed must be an integer in \[0, 4294967294\], got -1"),
        ("permuted", {"seed": 2**32 - 1}, r"seed must be an integer in \[0, 4294967294\]"),
        ("permuted", {"layout": "tall"}, r"layout must be one of flat, image, got 'tall'"),
        (
            "rotated",
            {"num_tasks": 37},
            r"at most 360.*got 37 \* 10\.0 = 370\.0; take at most 36 tasks",
        ),
        ("rotated", {"degrees": 0.0}, r"degrees must be finite and at least 0\.01, got 0\.0"),
        ("rotated", {"degrees": -10.0}, r"degrees must be"),
        ("rotated", {"degrees": float("nan")}, r"degrees must be"),
        ("rotated", {"degrees": float("inf")}, r"degrees must be"),
        (
            "split",
            {"num_tasks": 7},
            r"tiny: a split stream has at most .* the 6 classes, got 7 tasks",
        ),
        (
            "split",
            {"num_tasks": 4},
            r"6 classes must divide evenly.*got 4 tasks; .*classes_per_task",
        ),
        ("split", {"classes_per_task": 4}, r"classes_per_task must be in \[1, 3\] for 2 .*, got 4"),
        ("split", {"classes_per_task": 0}, r"classes_per_task must be an integer .*, got 0"),
    ],
)
def test_refused_streams(kind: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_stream(kind, tiny(4, 4), **({"num_tasks": 2} | arguments))


@pytest.mark.parametrize(
    ("kind", "layout", "message"),
    [
        (
            "rotated",
            "flat",
            r"tiny: a rotated stream needs images .*, got 5 features; use permuted",
        ),
        ("permuted", "image", r"tiny: layout 'image' needs images .*, got 5 features; use layout"),
    ],
)
def test_features_are_no_images(kind: str, layout: Layout, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_stream(kind, tiny(5), num_tasks=2, layout=layout)


@pytest.mark.parametrize("index", [-1, 2])
def test_index_out_of_range(index: int) -> None:
    stream = make_stream("split", tiny(5), num_tasks=2)
    with pytest.raises(DataError, match=rf"split stream: .* in \[0, 2\), got {index}"):
        stream.task(index)


def test_rotation_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    stream = make_stream("rotated", tiny(4, 4), num_tasks=2)
    with pytest.raises(DataError, match=r"scipy.*pip install 'supsup\[train\]'"):
        stream.task(1)


def test_heavy_modules_wait_until_they_are_needed() -> None:
    code = (
        "import sys, supsup_runtime.data.streams; "
        "print([m for m in ('scipy', 'sklearn', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The real thing


def test_permuted_mnist_is_what_the_shared_masks_were_trained_on() -> None:
    """A stranger's masks answer our tasks exactly as well as their record says."""
    mnist = load_dataset(shared_data("mnist"))
    masks = np.load(shared_data("permuted-mnist-lenet-250") / "masks.npz")
    assert (len(mnist.train_x), len(mnist.test_x)) == (60000, 10000)
    stream = make_stream("permuted", mnist, num_tasks=250)
    weights = [
        seeded_weight(0, layer, shape, kaiming_constant(shape))
        for layer, shape in enumerate([(300, 784), (100, 300), (100, 100)])
    ]
    for index in (0, 3, 249):
        task = stream.task(index, train=False)
        x = task.test_x
        for layer, weight in enumerate(weights):
            mask = unpack_mask(masks[f"m{layer}"][index], weight.shape)
            x = np.maximum(x, 0) if layer else x
            x = x @ (weight * mask).T
        accuracy = (x.argmax(axis=1) == task.test_y).mean()
        # One image of 10,000: float32 sums in another order may turn a tie.
        assert accuracy == pytest.approx(masks["accuracy"][index], abs=1.5e-4)


def test_mnist_is_normalised() -> None:
    mnist = load_dataset(shared_data("mnist"))
    task = make_stream("rotated", mnist, num_tasks=36).task(0, train=False)
    # The test images are a little brighter than the training images whose constants these are.
    assert task.test_x.mean(dtype=np.float64) == pytest.approx(0.0, abs=0.01)
    assert task.test_x.std(dtype=np.float64) == pytest.approx(1.0, abs=0.01)
    assert task.test_x.min() == pytest.approx(-0.1307 / 0.3081, abs=ATOL)
    assert task.test_x.max() == pytest.approx((1 - 0.1307) / 0.3081, abs=ATOL)
