from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import supsup_train as st
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.bits import unpack_mask
from supsup_runtime.data.streams import TaskData
from supsup_runtime.errors import BankError, InputError, OutputExistsError
from supsup_train.masks import train_task
from supsup_train.masks.train_task import batch_rows
from supsup_train.networks.models import load_module, make_model


def blobs(name: str = "blobs", images: int = 200) -> TaskData:
    """Make two Gaussian classes in four dimensions."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, images)
    x = (rng.standard_normal((images, 4)) + 3 * y[:, None]).astype(np.float32)
    half = images // 2
    return TaskData(
        name=name,
        labels=("low", "high"),
        train_x=x[:half],
        train_y=y[:half],
        test_x=x[half:],
        test_y=y[half:],
    )


def changed(data: TaskData, **arrays: object) -> TaskData:
    fields = ("name", "labels", "train_x", "train_y", "test_x", "test_y")
    return TaskData(**{**{key: getattr(data, key) for key in fields}, **arrays})


RECIPE = st.Recipe(steps=60, learning_rate=1e-2, batch_size=32)


class Normed(nn.Module):
    """Batch normalisation, a bias, a constant, and a head that tests use as state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 16)
        self.norm = nn.BatchNorm1d(16, affine=False)
        self.gain = nn.Parameter(torch.full((16,), 2.0))
        self.head = nn.Linear(16, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.first(x))) * self.gain)
        return logits


@pytest.fixture(scope="module")
def module() -> Normed:
    torch.manual_seed(0)
    return Normed()


@pytest.fixture(scope="module")
def bank(module: Normed, tmp_path_factory: pytest.TempPathFactory) -> MaskBank:
    return st.create_bank(
        tmp_path_factory.mktemp("bank") / "masks", module, input_shape=(4,), real_outputs=2
    )


def test_a_task_is_learned_and_fits_the_bank(module: Normed, bank: MaskBank) -> None:
    losses: list[float] = []
    before = {key: value.clone() for key, value in module.state_dict().items()}
    task = st.train_task(
        bank, module, blobs(), recipe=RECIPE, progress=lambda _step, loss: losses.append(loss)
    )
    assert len(losses) == RECIPE.steps
    assert task.training["accuracy"] >= 0.95
    assert 0 < task.training["entropy"] < np.log(3)  # below a uniform guess of three outputs
    assert task.training["recipe"]["steps"] == RECIPE.steps
    assert task.labels == ("low", "high")
    assert set(task.state) == {"norm.running_mean", "norm.running_var"}
    assert not np.allclose(task.state["norm.running_mean"], 0)  # the task has its own statistics
    bank.add(task)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_network_is_described(bank: MaskBank) -> None:
    network = bank.network
    assert [p.name for p in network.parameters] == ["first.weight", "head.weight"]
    assert (network.outputs, network.real_outputs, network.num_state) == (3, 2, 32)
    assert bank.objectives == ("entropy", "superfluous")


def test_training_is_deterministic_and_tasks_independent(module: Normed, bank: MaskBank) -> None:
    one = st.train_task(bank, module, blobs("a"), recipe=RECIPE)
    two = st.train_task(bank, module, blobs("a"), recipe=RECIPE)
    other = st.train_task(bank, module, blobs("b"), recipe=RECIPE)
    for key, mask in one.masks.items():
        np.testing.assert_array_equal(mask, two.masks[key])
    assert any((mask != other.masks[key]).any() for key, mask in one.masks.items())


def test_a_plain_loop_learns_the_same_mask(tmp_path: Path) -> None:
    """A plain loop: straight-through threshold, fixed weights, RMSprop."""
    mlp = st.Mlp([4, 8, 3])
    bank = st.create_bank(tmp_path / "masks", mlp, input_shape=(4,), real_outputs=2)
    data = blobs(images=64)
    recipe = st.Recipe(steps=20, learning_rate=1e-2, batch_size=32)  # one batch has all inputs
    task = st.train_task(bank, mlp, data, recipe=recipe)

    from supsup_train.masks.learning import initial_scores, task_seed
    from supsup_train.masks.train_task import batch_rows

    generator = torch.Generator().manual_seed(task_seed(0, data.name))
    scores = list(initial_scores(bank.network, generator).values())
    for score in scores:
        score.requires_grad_()
    weights = [torch.from_numpy(w) for w in bank.network.weights()]
    optimizer = torch.optim.RMSprop(scores, lr=1e-2)
    for rows in batch_rows(32, recipe, generator):
        x, y = torch.from_numpy(data.train_x)[rows], torch.from_numpy(data.train_y)[rows]
        masks = [(s >= 0).float() + s - s.detach() for s in scores]
        hidden = torch.relu(x @ (weights[0] * masks[0]).T)
        loss = nn.functional.cross_entropy(hidden @ (weights[1] * masks[1]).T, y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
    for parameter, score in zip(bank.network.parameters, scores, strict=True):
        got = unpack_mask(task.masks[parameter.name], parameter.shape)
        np.testing.assert_array_equal(got, (score >= 0).numpy())


def test_batches_are_shuffled_anew_in_every_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    recipe = st.Recipe(steps=5, batch_size=4)
    batches = list(batch_rows(9, recipe, generator))
    assert [len(batch) for batch in batches] == [4] * 5
    epochs = [torch.cat(batches[i : i + 2]).tolist() for i in (0, 2)]
    for epoch in epochs:
        assert len(set(epoch)) == 8
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1]


def test_large_pictures_are_tested_few_at_a_time() -> None:
    x, y = np.zeros((60, 3, 224, 224), np.float32), np.zeros(60, np.int64)
    sizes = []

    def forward(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return torch.zeros(len(rows), 3)

    assert train_task.tested(forward, 2, (x, y)) == {
        "accuracy": 1.0,
        "entropy": pytest.approx(np.log(3)),
    }
    assert sizes == [27, 27, 6]


def test_top_k_masks_have_their_density(module: Normed, bank: MaskBank) -> None:
    rule = st.Rule(kind="top-k", density=0.25)
    recipe = st.Recipe(rule=rule, steps=5, learning_rate=1e-2)
    task = st.train_task(bank, module, blobs("sparse"), recipe=recipe)
    assert task.density(bank.network) == pytest.approx(0.25, abs=0.01)


def test_state_in_float16_is_measured_as_it_is_read_again(tmp_path: Path, module: Normed) -> None:
    made: dict[str, Any] = {"input_shape": (4,), "real_outputs": 2}
    tasks = {}
    for dtype in ("float32", "float16"):
        bank = st.open_bank(tmp_path / dtype, module, **made, state_dtype=dtype)
        tasks[dtype] = st.train_task(bank, module, blobs(), recipe=RECIPE)
        bank.add(tasks[dtype])
        for name, value in bank.task(0).state.items():
            np.testing.assert_array_equal(value, tasks[dtype].state[name])
    for name, value in tasks["float32"].state.items():
        rounded = value.astype(np.float16)
        assert not np.array_equal(value, rounded)
        np.testing.assert_array_equal(tasks["float16"].state[name], rounded)
    accuracy = [task.training["accuracy"] for task in tasks.values()]
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.02)
    with pytest.raises(InputError, match="made with state_dtype float16, this run has float32"):
        st.open_bank(tmp_path / "float16", module, **made)
    with pytest.raises(BankError, match="state_dtype must be one of float32, float16, got 'half'"):
        st.create_bank(tmp_path / "half", module, **made, state_dtype="half")


def test_a_head_of_its_own_is_trained_state(tmp_path: Path, module: Normed) -> None:
    state = ["norm.running_mean", "norm.running_var", "head.weight"]
    bank = st.create_bank(
        tmp_path / "m",
        module,
        input_shape=(4,),
        real_outputs=2,
        masked=["first.weight"],
        state=state,
    )
    task = st.train_task(bank, module, blobs(), recipe=RECIPE)
    assert not np.array_equal(task.state["head.weight"], module.head.weight.detach().numpy())
    bank.add(task)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_optimisers_learn(module: Normed, bank: MaskBank, optimizer: str) -> None:
    recipe = st.Recipe(steps=60, learning_rate=1e-2, optimizer=optimizer)  # type: ignore[arg-type]  # parametrised
    assert st.train_task(bank, module, blobs(), recipe=recipe).training["accuracy"] >= 0.9


def test_another_module_is_refused(bank: MaskBank) -> None:
    with pytest.raises(InputError, match=r"'first.weight' must have shape .* no such tensor"):
        st.train_task(bank, st.Mlp([4, 3]), blobs())
    other = Normed()
    with torch.no_grad():
        other.gain.fill_(3)
    with pytest.raises(InputError, match=r"constants \[.*'gain'.* must have the values"):
        st.train_task(bank, other, blobs())
    with torch.no_grad():
        other.gain.fill_(2)
        other.first.bias.fill_(7)  # biases are treated as zero
    st.train_task(bank, other, blobs(), recipe=st.Recipe(steps=1))


def test_bad_data_are_refused(module: Normed, bank: MaskBank) -> None:
    data = blobs()
    nan = data.train_x.copy()
    nan[3, 1] = np.nan
    for arrays, message in (
        ({"train_x": data.train_x.astype(np.float64)}, "x must be float32"),
        ({"train_x": data.train_x[:, :3]}, r"x must be float32 \(images, 4\)"),
        ({"train_x": data.train_x[:0], "train_y": data.train_y[:0]}, "at least one image"),
        ({"train_x": nan}, "must be finite"),
        ({"train_y": data.train_y[:-1]}, r"y must be int64 \(100,\)"),
        ({"train_y": data.train_y + 1}, r"labels must be in \[0, 2\), got 1 to 2"),
        ({"test_y": data.test_y - 1}, r"\(test\): labels must be in"),
    ):
        with pytest.raises(InputError, match=message):
            st.train_task(bank, module, changed(data, **arrays))


def test_one_row_is_too_few_to_normalise(module: Normed, bank: MaskBank) -> None:
    message = r"task 'blobs', step 1 of 1: .* batch of 1: Expected more.*; use a larger batch"
    with pytest.raises(InputError, match=message):
        st.train_task(bank, module, blobs(), recipe=st.Recipe(steps=1, batch_size=1))


def test_a_loss_that_is_lost_for_one_step_is_refused(
    module: Normed, bank: MaskBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN scores give a mask of zeros, whose loss is finite again."""
    losses = iter([1.0, 1.0, float("nan"), 1.0, 1.0])

    def lost(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, targets) * next(losses)

    monkeypatch.setattr("supsup_train.masks.learning.cross_entropy", lost)
    told: list[int] = []
    message = "task 'blobs', step 3 of 5: the loss must be finite, got nan; lower the learning"
    with pytest.raises(InputError, match=message):
        st.train_task(
            bank,
            module,
            blobs(),
            recipe=st.Recipe(steps=5),
            progress=lambda step, _loss: told.append(step),
        )
    assert told == [1, 2]


def test_a_rate_that_is_too_high_is_named_at_its_step(tmp_path: Path) -> None:
    """In a trained head, and in scores, where no loss shows it; earlier tasks are kept."""
    mlp = st.Mlp([4, 8, 3])
    options: dict[str, Any] = {"input_shape": (4,), "real_outputs": 2}
    names = [name for name, _ in mlp.named_parameters()]
    bank = st.create_bank(tmp_path / "head", mlp, masked=names[:1], state=names[1:], **options)
    bank.add(st.train_task(bank, mlp, blobs("first"), recipe=RECIPE))
    wild = st.Recipe(steps=20, learning_rate=1e38, optimizer="sgd")
    with pytest.raises(
        InputError, match=r"task 'blobs', step [23] of 20: the loss must be finite.* lower"
    ):
        st.train_task(bank, mlp, blobs(), recipe=wild)
    assert MaskBank.open(bank.path).task_names == ("first",)
    masks = st.create_bank(tmp_path / "masks", mlp, **options)
    wild = st.Recipe(steps=1, learning_rate=1e38)
    with pytest.raises(
        InputError, match=r"task 'blobs': .* must be finite.* lower the learning rate"
    ):
        st.train_task(masks, mlp, blobs(), recipe=wild)
    wild = st.Recipe(steps=1, learning_rate=1e39)  # beyond float32
    message = (
        "^task 'blobs', step 1 of 1: cannot learn: value cannot be .*; lower the learning rate$"
    )
    with pytest.raises(InputError, match=message):
        st.train_task(masks, mlp, blobs(), recipe=wild)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: must be an integer of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate: must be positive"),
        ({"optimizer": "adamw"}, "optimizer: must be one of"),
    ],
)
def test_bad_recipes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        st.Recipe(**options)  # type: ignore[arg-type]  # on purpose


def test_bad_banks_are_refused(tmp_path: Path, module: Normed, bank: MaskBank) -> None:
    with pytest.raises(OutputExistsError, match="not an empty folder"):
        st.create_bank(bank.path, module, input_shape=(4,), real_outputs=2)
    with pytest.raises(InputError, match="masked: 'nope' must be a parameter of one or more"):
        st.create_bank(tmp_path / "a", module, input_shape=(4,), real_outputs=2, masked=["nope"])
    with pytest.raises(
        InputError, match="masked: 'gain' has one dimension, so it must be all ones"
    ):
        st.create_bank(tmp_path / "a", module, input_shape=(4,), real_outputs=2, masked=["gain"])
    with pytest.raises(InputError, match="state: 'nope' must be"):
        st.create_bank(tmp_path / "a", module, input_shape=(4,), real_outputs=2, state=["nope"])
    with pytest.raises(BankError, match="real_outputs must be an integer in"):
        st.create_bank(tmp_path / "a", module, input_shape=(4,), real_outputs=4)
    with pytest.raises(st.ProgramError, match="must have a parameter to mask or a tensor as state"):
        st.create_bank(tmp_path / "a", nn.Flatten(0), input_shape=(4,), real_outputs=2)
    assert list(tmp_path.iterdir()) == []


def test_models_by_name(tmp_path: Path) -> None:
    assert (
        sum(
            p.numel()
            for p in make_model("lenet-300-100", input_shape=(784,), outputs=100).parameters()
        )
        == 275_200
    )
    with pytest.raises(InputError, match="model: must be lenet-300-100"):
        make_model("vgg", input_shape=(784,), outputs=10)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(shape, outputs): return nn.Linear(shape[0], outputs, bias=False)\n"
        "def bad(shape, outputs): return 3\n"
    )
    made = load_module(f"{tmp_path}/net.py:make", input_shape=(4,), outputs=3)
    assert isinstance(made, nn.Linear)
    for spec, message in (
        ("net:make", "expected FILE.py:FUNCTION"),
        (f"{tmp_path}/net.py:nope", "has no function 'nope'"),
        (f"{tmp_path}/net.py:bad", "must return an nn.Module, got int"),
    ):
        with pytest.raises(InputError, match=message):
            load_module(spec, input_shape=(4,), outputs=3)
