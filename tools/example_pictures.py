"""Write twelve small tasks of pictures, to try `supsup-train own` without pictures of one's own.

python tools/example_pictures.py pictures/
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

_DIGITS = {
    "digits-0-1": ("0", "1"),
    "digits-2-3-4": ("2", "3", "4"),
    "digits-5-9": ("5", "6", "7", "8", "9"),
    "negative-1-7": ("1", "7"),
    "negative-0-6-8": ("0", "6", "8"),
    "turned-2-4-5-9": ("2", "4", "5", "9"),
}
_DRAWN = {
    "stripes": ("down", "across"),
    "checks": ("2", "3", "4"),
    "corners": ("top-left", "top-right", "bottom-left", "bottom-right"),
    "shapes": ("circle", "cross", "ring", "square", "triangle"),
    "shades": ("down", "left", "right", "up", "in", "out"),
    "angles": tuple(str(angle) for angle in range(0, 180, 18)),
}
TASKS = {**_DIGITS, **_DRAWN}
"""Names of the twelve tasks and of their 2 to 10 classes."""


def make_tasks(folder: Path, *, tasks: Iterable[str] = TASKS, per_class: int = 40) -> Path:
    """Make ``folder / task / class / picture.png`` of 16 x 16 gray pictures; return `folder`."""
    for name in tasks:
        for label, each in enumerate(TASKS[name]):
            pictures = _of_digits(name, each) if name in _DIGITS else _drawn(name, label)
            write_pictures(folder / name / each, pictures, per_class)
    return folder


def make_real_tasks(folder: Path, mnist_data: Path, cifar_data: Path) -> Path:
    """Make twelve tasks from MNIST and CIFAR-10, as ``folder / task / train or test / class``.

    Eight tasks of digits, four of them in photographic negative, are gray, 28 x 28, with 300
    pictures a class for training; four of photographs are RGB, 32 x 32, with 1000. The test has 60.
    """
    from supsup_runtime.data import load_dataset

    mnist, cifar = load_dataset(mnist_data), load_dataset(cifar_data)
    digits = [(0, 1), (2, 3), (4, 5), (6, 7, 8, 9)]
    negatives = [(1, 7), (0, 6, 8), (3, 5, 9), (2, 4)]
    photographs = [(0, 1), (2, 3, 4), (5, 6), (7, 8, 9)]
    groups = [
        *(("digits", mnist, classes, 300) for classes in digits),
        *(("negative", mnist, classes, 300) for classes in negatives),
        *(("photographs", cifar, classes, 1000) for classes in photographs),
    ]
    for kind, data, classes, count in groups:
        task = folder / "-".join([kind, *map(str, classes)])
        for part, x, y, most in (
            ("train", data.train_x, data.train_y, count),
            ("test", data.test_x, data.test_y, 60),
        ):
            for label in classes:
                found = x[y == label][:most].astype(np.uint8)
                shown = 255 - found if kind == "negative" else found
                write_pictures(task / part / str(label), iter(shown), most)
    return folder


def write_pictures(folder: Path, pictures: Iterator[Picture], count: int) -> None:
    """Write up to `count` pictures as ``folder / number.png``."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number, picture in zip(range(count), pictures, strict=False):
        Image.fromarray(picture).save(folder / f"{number}.png")


def _of_digits(task: str, digit: str) -> Iterator[Picture]:
    """Yield scikit-learn's digits in double size; tasks with a digit in common share them."""
    images, labels = _digits()
    for image in images[labels == int(digit)]:
        x = np.kron(image.reshape(8, 8), np.full((2, 2), 255 / 16)).astype(np.uint8)
        x = 255 - x if task.startswith("negative") else x
        yield np.ascontiguousarray(np.rot90(x) if task.startswith("turned") else x)


@cache
def _digits() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


def _drawn(task: str, label: int) -> Iterator[Picture]:
    """Yield drawings of a class, each a little different, with noise."""
    rng = np.random.RandomState(label)
    grid = np.mgrid[0:16, 0:16].astype(float)
    while True:
        y, x = grid - 7.5 - rng.uniform(-2, 2, (2, 1, 1))
        bright = _DRAWINGS[task](x, y, label) * rng.uniform(150, 220)
        yield (bright + rng.uniform(0, 30, (16, 16))).clip(0, 255).astype(np.uint8)


_Grid = npt.NDArray[np.floating]


def _stripes(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    bright: npt.NDArray[Any] = np.sin((x, y)[label] * 1.5) > 0
    return bright


def _checks(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    side = label + 2
    bright: npt.NDArray[Any] = (x // side + y // side) % 2 == 0
    return bright


def _corners(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    return (x * (1, -1)[label % 2] < -2) & (y * (1, -1)[label // 2] < -2)


def _shapes(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    radius, square = np.hypot(x, y), np.maximum(abs(x), abs(y))
    cross = (np.minimum(abs(x), abs(y)) < 1.5) & (square < 5.5)
    triangle = (y < 4.5) & (y > 2 * abs(x) - 5.5)
    ring = (radius > 3) & (radius < 5.5)
    return (radius < 5.5, cross, ring, square < 4.5, triangle)[label]


def _shades(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    radius = np.hypot(x, y)
    return ((y, -x, x, -y, -radius, radius)[label] / 20 + 0.5).clip(0, 1)


def _angles(x: _Grid, y: _Grid, label: int) -> npt.NDArray[Any]:
    angle = np.pi * label / 10
    bright: npt.NDArray[Any] = abs(x * np.sin(angle) - y * np.cos(angle)) < 1.5
    return bright


_DRAWINGS = {
    "stripes": _stripes,
    "checks": _checks,
    "corners": _corners,
    "shapes": _shapes,
    "shades": _shades,
    "angles": _angles,
}


def main() -> None:
    """Write the tasks into the folder that the command line names."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("folder", type=Path, help="folder to make, with a folder for each task")
    text = "of MNIST and CIFAR-10 instead: folder of IDX files, .npz file (needs --cifar, --mnist)"
    made.add_argument("--mnist", type=Path, metavar="FOLDER", help=text)
    made.add_argument("--cifar", type=Path, metavar="FILE", help="see --mnist")
    arguments = made.parse_args()
    if (arguments.mnist is None) != (arguments.cifar is None):
        made.error("--mnist and --cifar go together; give both, or neither")
    if arguments.folder.exists():
        made.error(f"{arguments.folder} exists; give another folder")
    if arguments.mnist is None:
        make_tasks(arguments.folder)
    else:
        make_real_tasks(arguments.folder, arguments.mnist, arguments.cifar)


if __name__ == "__main__":
    main()
