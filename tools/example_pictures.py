"""Write twelve small tasks of pictures, to try `supsup-train own` without pictures of one's own.

python tools/example_pictures.py pictures/
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from supsup_runtime.arrays import Labels, Values
from supsup_runtime.data import load_dataset

TASKS = (
    *("digits-0-1", "digits-2-3-4", "digits-5-6-7-8-9"),
    *("negative-1-7", "negative-0-6-8", "negative-2-3-4-5-9"),
    *("turned-1-7", "turned-0-3-6-8", "turned-2-4-5-9"),
    *("mirrored-2-3", "mirrored-4-7", "mirrored-5-6-9"),
)
"""Names of the twelve tasks: what they show, and their 2 to 5 classes."""
_OF_MNIST = (
    *("digits-0-1", "digits-2-3", "digits-4-5", "digits-6-7-8-9"),
    *("negative-1-7", "negative-0-6-8", "negative-3-5-9", "negative-2-4"),
)
_OF_CIFAR = ("photographs-0-1", "photographs-2-3-4", "photographs-5-6", "photographs-7-8-9")
_CHANGES: dict[str, Callable[[Any], Any]] = {
    "negative": lambda x: 255 - x,
    "turned": np.rot90,
    "mirrored": np.fliplr,
}


def make_tasks(folder: Path, *, tasks: Iterable[str] = TASKS, per_class: int = 40) -> Path:
    """Make ``folder / task / class / picture.png`` of scikit-learn's digits; return `folder`.

    They are gray, 16 x 16. Tasks with a digit in common show the same ones.
    """
    data = load_dataset("digits")
    x = np.kron(data.train_x, np.full((1, 2, 2), 255 / 16))
    for task in tasks:
        _write(folder / task, task, x, data.train_y, per_class)
    return folder


def make_real_tasks(folder: Path, mnist_data: Path, cifar_data: Path) -> Path:
    """Make twelve tasks from MNIST and CIFAR-10, as ``folder / task / train or test / class``.

    Eight tasks of digits, four of them in photographic negative, are gray, 28 x 28, with 300
    pictures a class for training; four of photographs are RGB, 32 x 32, with 1000. The test has 60.
    """
    for source, tasks, most in ((mnist_data, _OF_MNIST, 300), (cifar_data, _OF_CIFAR, 1000)):
        data = load_dataset(source)
        for task in tasks:
            _write(folder / task / "train", task, data.train_x, data.train_y, most)
            _write(folder / task / "test", task, data.test_x, data.test_y, 60)
    return folder


def _write(folder: Path, task: str, x: Values, y: Labels, most: int) -> None:
    """Write up to `most` pictures of each class of a task as ``folder / class / number.png``."""
    from PIL import Image

    kind, *classes = task.split("-")
    for label in classes:
        (folder / label).mkdir(parents=True)
        for number, picture in enumerate(x[y == int(label)][:most].astype(np.uint8)):
            shown = _CHANGES[kind](picture) if kind in _CHANGES else picture
            Image.fromarray(np.ascontiguousarray(shown)).save(folder / label / f"{number}.png")


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
