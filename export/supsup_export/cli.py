"""The command supsup-export: a mask bank into one ONNX model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from supsup_export.bank_model.compose import OUTPUTS, Request
from supsup_export.exporter import Report, export, export_recovery, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.console import (
    add_renamed,
    parser,
    print_result,
    read_array,
    run_command,
)
from supsup_runtime.errors import InputError

_EXAMPLES = (
    "--bank masks/ out.onnx",
    "--bank masks/ known.onnx --graph-outputs logits",
    "--bank masks/ anywhere.onnx --target portable --sidecar",
    "--bank masks/ thousands.onnx --scoring screened --sample images.npy",
    "--bank masks/ one.onnx --task permuted-0001 --bits 2",
    "--bank masks/ recover.onnx --hopfield",
    "--bank masks/ stream.onnx --hopfield --stream",
)
_OF_WHOLE_BANKS = ("target", "objective", "graph_outputs", "scoring", "sample")


def main() -> None:
    """Run the command."""
    run_command("supsup-export", _run)


def _run() -> None:
    arguments = _parser().parse_args()
    report = _export(arguments)
    if report.left_out:
        sys.stderr.write(f"supsup-export: {report.left_out}\n")
    print_result(report.to_dict(), as_json=arguments.json, text=report.to_text())


def _export(arguments: argparse.Namespace) -> Report[Any]:
    how = {name: getattr(arguments, name) for name in ("check", "sidecar", "force")}
    if arguments.hopfield:
        _refuse_beside(arguments, "--hopfield", "recovers masks", ("task", "bits"))
        bank = MaskBank.open(arguments.bank)
        return export_recovery(bank, arguments.output, stream=arguments.stream, **how)
    if arguments.stream:
        raise InputError(
            "--stream: is for a model that recovers masks; make one with --hopfield, or leave it "
            "out"
        )
    if arguments.task is not None:
        _refuse_beside(arguments, "--task", "has one task")
        bank = MaskBank.open(arguments.bank, verify=False)  # the task's own file is, when read
        bits = 32 if arguments.bits is None else arguments.bits
        return export_task(bank, arguments.task, arguments.output, bits=bits, **how)
    if arguments.bits is not None:
        raise InputError("--bits: is for a model of one task; name it with --task, or leave it out")
    outputs = arguments.graph_outputs
    request = Request(
        target="cpu" if arguments.target is None else arguments.target,
        objective=arguments.objective,
        outputs=None if outputs is None else tuple(outputs.replace(" ", "").split(",")),
        scoring=arguments.scoring,
    )
    bank = MaskBank.open(arguments.bank, verify=False)  # every task is checked when laid out
    sample = None if arguments.sample is None else read_array(arguments.sample)
    return export(bank, arguments.output, request=request, sample=sample, **how)


def _refuse_beside(
    arguments: argparse.Namespace, option: str, what: str, more: tuple[str, ...] = ()
) -> None:
    for name in (*more, *_OF_WHOLE_BANKS):
        if getattr(arguments, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')}: does not apply to a model that {what}; leave it, or "
                f"{option}, out"
            )


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "supsup-export", "Bake the weights and masks of a bank into one ONNX model.", _EXAMPLES
    )
    given, made_of, method, speed = made.what_in, made.what_out, made.method, made.speed
    text = "folder of the bank (required)"
    given.add_argument("--bank", type=Path, required=True, metavar="DIR", help=text)
    text = "this one task alone, for a plain model of x (default: all tasks)"
    given.add_argument("--task", metavar="NAME", help=text)
    text = "the bank's Hopfield store, for a model that recovers its masks"
    given.add_argument("--hopfield", action="store_true", help=text)
    made_of.add_argument("output", type=Path, metavar="OUTPUT", help="where to write the model")
    made_of.add_argument(
        "--target",
        metavar="{cpu,cuda,portable}",
        help="operators: cpu and cuda are fast with ONNX Runtime, portable is ai.onnx alone "
        "(default: cpu)",
    )
    text = f"outputs of the graph, some of {','.join(OUTPUTS)} (default: all)"
    made_of.add_argument("--graph-outputs", metavar="NAME,...", help=text)
    add_renamed(made_of, {"--outputs": "--graph-outputs"})
    text = "with --task, bits per weight: 32 is float32, 2 ternary (default: 32)"
    made_of.add_argument("--bits", type=int, metavar="{32,2}", help=text)
    text = "with --hopfield, a model that takes a whole stream of batches in one call"
    made_of.add_argument("--stream", action="store_true", help=text)
    made_of.add_argument("--sidecar", action="store_true", help="write the metadata to OUTPUT.json")
    made_of.add_argument("--force", action="store_true", help="replace OUTPUT if it is there")
    made_of.add_argument("--json", action="store_true", help="report in JSON")
    method.add_argument(
        "--objective",
        metavar="{entropy,superfluous}",
        help="what one-shot inference differentiates (default: superfluous where the network has "
        "superfluous outputs)",
    )
    speed.add_argument(
        "--scoring",
        metavar="{exact,rounded,screened}",
        help="exact: of every task; rounded, screened: exactly of those that can still win "
        "(default: rounded for large banks on the CPU, else exact)",
    )
    speed.add_argument(
        "--sample",
        type=Path,
        metavar="FILE",
        help="with --scoring screened, a .npy file of real inputs, float32 (images, ...), by which "
        "the weights to score first are chosen (default: random inputs)",
    )
    text = "run the model against the bank before it is put in place (default: --check)"
    action = argparse.BooleanOptionalAction
    speed.add_argument("--check", action=action, default=True, help=text)
    return made
