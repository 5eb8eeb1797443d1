"""Exported models, and the programs in a bank that models are made of."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from random import Random

import numpy as np
import onnx

from fuzz.case import Case, read_files
from fuzz.forge import forge
from fuzz.mutate import Mutation, bytes_of, changed_value, choice, dumped, encoded, text
from fuzz.protobuf import BYTES, Field, flipped, mutated, parse, serialize
from fuzz.seeds import FEATURES, MODELS
from fuzz.target import Reach, Refused, Target, Wrong, command
from supsup_export import export
from supsup_runtime import Model as Loaded
from supsup_runtime import load, load_hopfield
from supsup_runtime.arrays import Array
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.errors import SupSupError
from supsup_runtime.model.inputs import blank

_PROGRAMS = ("forward", "gradient")
_METADATA = 14
_PREFIX = "org.supsup."
_HOW = (
    *((0.35, "graph"), (0.2, "data"), (0.2, "metadata"), (0.15, "forward")),
    *((0.06, "both"), (0.04, "bytes")),
)
_BATCH = np.linspace(-1, 1, 3 * FEATURES, dtype=np.float32).reshape(3, FEATURES)


class Model(Target):
    """A model file: its metadata, forward program and graph, changed alone or together."""

    room = 256 << 20

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        files = [seeds / f"{name}.onnx" for name in MODELS]
        self._models = [file.read_bytes() for file in files if file.exists()]  # corpus: of the time
        command("supsup-run", seeds / "full.onnx", seeds / "x.npy")  # imports

    def make(self, rng: Random) -> Case:
        data = rng.choices(self._models, (5, 2, 3, 2, 2, 0.5, 2)[: len(self._models)])[0]
        how = choice(rng, _HOW)
        if how == "bytes":
            data = bytes_of(rng, data)
        if how in {"graph", "data"}:
            data = _graph_of(rng, data, mutated if how == "graph" else flipped)
        if how in {"forward", "both"}:
            data = changed_metadata(rng, data, forward=True)
        if how in {"metadata", "both"}:
            data = changed_metadata(rng, data, forward=False)
        return Case(files={"m.onnx": data, "secret": b"SECRET" * 100})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        path = folder / "m.onnx"
        status, _ = command("supsup-inspect", path, "--json")
        if status == 0:
            reach("header")
        if _mode(case.files["m.onnx"]) == b"recover":
            _use_recovering(path, reach)
            return
        model = load(path)
        reach("load")
        if _asked(model):
            reach("call")
        _check_length(path, model)


def _mode(data: bytes) -> bytes:
    """The last mode among the metadata, where it can be seen."""
    at = data.rfind(b"org.supsup.mode")
    return data[at + 17 : at + 17 + data[at + 16]] if at >= 0 and at + 16 < len(data) else b""


def _use_recovering(path: Path, reach: Reach) -> None:
    model = load_hopfield(path)
    reach("load")
    shape = model.info.network.input_shape
    found = model.recover([np.zeros((2, *shape), np.float32)] * 2)
    if found.mask.shape != (model.info.network.num_masked,):
        raise Wrong("a mask of another length")
    reach("call")


def _asked(model: Loaded) -> bool:
    """Ask all there is to ask; return whether there was an answer."""
    shape, outputs = model.info.network.input_shape, model.info.network.outputs
    if np.prod(shape, dtype=object) > 1 << 20:
        return False
    x: Array = _BATCH if shape == (FEATURES,) else np.ones((3, *shape), np.float32)
    if model.info.baked:
        x = np.ones((3, 4, 3, 1), np.uint8)
    asks = (
        lambda: model.predict(x, task=0).logits,
        lambda: model.logits(x, 0),
        lambda: model.predict(x).logits,
        lambda: model.predict(x, per_image=True, method="exhaustive").logits,
        lambda: model.superpose(x, [0], [1.0]),
        lambda: model.warmup([0]),
        lambda: model.infer_task(x).task.name,
    )
    answered = False
    for ask in asks:
        try:
            got = ask()
        except SupSupError:
            continue
        answered = True
        if isinstance(got, np.ndarray) and (got.shape != (3, outputs) or got.dtype != np.float32):
            raise Wrong("logits of another shape or type")
    return answered


def _check_length(path: Path, model: Loaded) -> None:
    """The weights that a graph gives must be as long as the network, or others' memory is read."""
    if model.info.mode not in {"full", "known"}:
        return
    import onnxruntime  # as late as the runtime does

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_outputs()}
    feeds = {"x": blank(model.info, 1)}
    feeds |= {"tasks": np.zeros(1, np.int64), "alphas": np.ones(1, np.float32)}
    feeds |= {"infer": np.array(False)} if model.info.mode == "full" else {}
    if "parameters" in names:
        try:
            got = session.run(["parameters"], feeds)[0]
        except Exception:  # noqa: BLE001 - the graph's own trouble
            return
        if got.size != model.info.network.num_masked or got.dtype != np.float32:
            raise Wrong("parameters of another length or type are taken for weights")


def _graph_of(rng: Random, data: bytes, mutation: Mutation) -> bytes:
    """Change what is no metadata."""
    fields = parse(data)
    kept = [field for field in fields if field.number == _METADATA]
    graph = serialize([field for field in fields if field.number != _METADATA])
    return mutation(rng, graph) + serialize(kept)


def changed_metadata(rng: Random, data: bytes, *, forward: bool) -> bytes:
    """Change a value of the metadata; the network's digest becomes true four times in five."""
    try:
        fields = parse(data)
        pairs = [_pair(field) for field in fields if field.number == _METADATA]
        told = {key.decode().removeprefix(_PREFIX): value for key, value in pairs}
    except ValueError:  # it was changed before
        return bytes_of(rng, data)
    if "forward" not in told:
        return mutated(rng, data)
    if forward:
        told["forward"] = base64.b64encode(_program_of(rng, base64.b64decode(told["forward"])))
    else:
        _change_told(rng, told)
    if rng.random() < 0.8:
        _sign(told)
    entries = [(f"{_PREFIX}{key}".encode(), value) for key, value in told.items()]
    if rng.random() < 0.05:
        entries.append(rng.choice(entries))
    rest = [field for field in fields if field.number != _METADATA]
    made = [Field(_METADATA, BYTES, [Field(1, BYTES, k), Field(2, BYTES, v)]) for k, v in entries]
    return serialize(rest + made)


def _pair(field: Field) -> tuple[bytes, bytes]:
    """A key and its value; what looks like a message within is none."""
    data = field.value if isinstance(field.value, bytes) else serialize(_message(field.value))
    key, value = (_bytes(part) for part in parse(data))
    return key, value


def _message(value: int | bytes | list[Field]) -> list[Field]:
    if not isinstance(value, list):
        raise ValueError("a number where a message was")  # noqa: TRY004 - as of other bytes
    return value


def _bytes(field: Field) -> bytes:
    return field.value if isinstance(field.value, bytes) else serialize(_message(field.value))


def _change_told(rng: Random, told: dict[str, bytes]) -> None:
    key = choice(rng, [(4.0 if name in {"network", "tasks"} else 1.0, name) for name in told])
    how = rng.random()
    if how < 0.05:
        del told[key]
    elif told[key][:1] in {b"{", b"["} and how < 0.9:
        told[key] = encoded(rng, dumped(changed_value(rng, json.loads(told[key]))))
    else:
        told[key] = text(rng, told[key].decode()).encode(errors="surrogatepass")


def _sign(told: dict[str, bytes]) -> None:
    try:
        forward = hashlib.sha256(base64.b64decode(told["forward"])).hexdigest()
        value = {"forward": forward, "network": json.loads(told["network"])}
    except (KeyError, ValueError, RecursionError):
        return
    told["digest"] = hashlib.sha256(dumped(value)).hexdigest().encode()


def _program_of(rng: Random, data: bytes) -> bytes:
    """Change a program; now and then give a tensor external data."""
    if rng.random() < 0.85:
        return mutated(rng, data)
    model = onnx.load_model_from_string(data)
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    if tensors:
        tensor = rng.choice(tensors)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="secret")
    changed: bytes = model.SerializeToString()
    return changed


class Program(Target):
    """The programs of a bank, as the export takes them in."""

    room = 512 << 20

    def __init__(self, seeds: Path) -> None:
        super().__init__(seeds)
        self._banks = [read_files(seeds / name) for name in ("plain", "units", "state")]

    def make(self, rng: Random) -> Case:
        files = dict(rng.choice(self._banks))
        name = f"programs/{choice(rng, ((2.0, _PROGRAMS[0]), (1.0, _PROGRAMS[1])))}.onnx"
        files[name] = _program_of(rng, files[name])
        forge(files)
        inner = {f"bank/{key}": data for key, data in files.items()}
        return Case(files={**inner, "secret": b"SECRET" * 100})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        os.chdir(folder)  # where a location without a folder would lead
        bank = MaskBank.open("bank")
        if all(_is_onnx(case.files[f"bank/programs/{name}.onnx"]) for name in _PROGRAMS):
            reach("header")
        for check in (True, False):
            path = folder / f"{check}.onnx"
            try:
                export(bank, path, check=check)
            except SupSupError:
                continue
            reach("load")
            if b"SECRETSECRET" in path.read_bytes():
                raise Wrong("another file is in the model")
            model = load(path)
            shape = model.info.network.input_shape
            model.predict(np.ones((2, *shape), np.float32))
            reach("call")
            return
        raise Refused


def _is_onnx(data: bytes) -> bool:
    try:
        onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - protobuf has many
        return False
    return True
