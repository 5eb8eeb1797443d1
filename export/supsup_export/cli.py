"""The command supsup-export."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from supsup_export.bank_model.compose import OUTPUTS, Request
from supsup_export.exporter import Report, export, export_recovery, export_task
from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.bank.index import OBJECTIVES
from supsup_runtime.console import (
    add_options,
    add_renamed,
    parser,
    print_result,
    say,
    to_path,
)
from supsup_runtime.errors import InputError
from supsup_runtime.model.metadata import Preprocess, Scoring, Target
from supsup_runtime.npyfile import read_npy

_EXAMPLES = (
    "--bank masks/ out.onnx",
    "--bank masks/ known.onnx --graph-outputs logits",
    "--bank masks/ anywhere.onnx --target portable --sidecar",
    "--bank masks/ thousands.onnx --scoring screened --sample images.npy",
    "--bank masks/ one.onnx --task permuted-0001 --bits 2",
    "--bank masks/ camera.onnx --preprocess baked",
    "--bank masks/ recover.onnx --hopfield",
    "--bank masks/ stream.onnx --hopfield --stream",
)
_OF_WHOLE_BANKS = ("target", "objective", "graph_outputs", "scoring", "sample")


def run() -> None:
    """Run the command."""
    arguments = _parser().parse_args()
    report = _export(arguments)
    if report.left_out:
        say(f"supsup-export: {report.left_out}")
    print_result(report.to_dict(), as_json=arguments.json, text=report.to_text())


def _export(arguments: argparse.Namespace) -> Report[Any]:
    how = {name: getattr(arguments, name) for name in ("check", "sidecar", "force")}
    if arguments.hopfield:
        _refuse_beside(
            arguments, "--hopfield", "that recovers masks", ("task", "bits", "preprocess")
        )
        bank = MaskBank.open(arguments.bank)
        return export_recovery(bank, arguments.output, stream=arguments.stream, **how)
    if arguments.stream:
        raise InputError("--stream: requires --hopfield; add it, or leave out --stream")
    preprocess: Preprocess = arguments.preprocess or "runtime"
    if arguments.task is not None:
        _refuse_beside(arguments, "--task", "of one task")
        bank = MaskBank.open(arguments.bank, verify=False)  # reading the task verifies its file
        bits = 32 if arguments.bits is None else arguments.bits
        return export_task(
            bank, arguments.task, arguments.output, bits=bits, preprocess=preprocess, **how
        )
    if arguments.bits is not None:
        raise InputError("--bits: requires --task; add it, or leave out --bits")
    outputs = arguments.graph_outputs
    request = Request(
        target="cpu" if arguments.target is None else arguments.target,
        objective=arguments.objective,
        outputs=None if outputs is None else tuple(outputs.replace(" ", "").split(",")),
        scoring=arguments.scoring,
        preprocess=preprocess,
    )
    bank = MaskBank.open(arguments.bank, verify=False)  # export verifies every task
    sample = None if arguments.sample is None else read_npy(arguments.sample)
    return export(bank, arguments.output, request=request, sample=sample, **how)


def _refuse_beside(
    arguments: argparse.Namespace, option: str, what: str, more: tuple[str, ...] = ()
) -> None:
    for name in (*more, *_OF_WHOLE_BANKS):
        if getattr(arguments, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')}: does not apply to a model {what}; leave out this "
                f"option or {option}"
            )


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "supsup-export", "Export the weights and masks of a bank as one ONNX model.", _EXAMPLES
    )
    given, made_of, method, speed = made.what_in, made.what_out, made.method, made.speed
    text = "folder of the mask bank (required)"
    given.add_argument("--bank", type=to_path, required=True, metavar="DIR", help=text)
    text = "export only this task, as a plain model with input x (default: all tasks)"
    given.add_argument("--task", metavar="NAME", help=text)
    text = "export a model that recovers masks from the bank's Hopfield store"
    given.add_argument("--hopfield", action="store_true", help=text)
    made_of.add_argument("output", type=to_path, metavar="OUTPUT", help="model file to write")
    text = "cpu, cuda: fast operators of ONNX Runtime; portable: standard operators (ai.onnx) only "
    add_options(made_of, [("--target", get_args(Target), None, text + "(default: cpu)")])
    text = f"outputs to keep, any of {','.join(OUTPUTS)} (default: all but log_odds)"
    made_of.add_argument("--graph-outputs", metavar="NAME,...", help=text)
    add_renamed(made_of, {"--outputs": "--graph-outputs"})
    text = "with --task: bits per weight, 32 (float32) or 2 (ternary) (default: 32)"
    made_of.add_argument("--bits", type=int, choices=(32, 2), help=text)
    text = "baked: the model prepares pictures itself and takes uint8 (batch, height, width, "
    text += "channels) of any size; runtime: it takes what the application has prepared (default: "
    add_options(made_of, [("--preprocess", get_args(Preprocess), None, text + "runtime)")])
    text = "with --hopfield: recover from a whole stream in one call"
    made_of.add_argument("--stream", action="store_true", help=text)
    text = "also write the metadata to OUTPUT.json"
    made_of.add_argument("--sidecar", action="store_true", help=text)
    made_of.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    made_of.add_argument("--json", action="store_true", help="print the report as JSON")
    text = "objective of one-shot inference (default: superfluous if the network has superfluous "
    add_options(method, [("--objective", OBJECTIVES, None, text + "outputs, else entropy)")])
    text = "how to score tasks. exact: all exactly; rounded: all in int8, then exactly those that "
    text += "can still win; screened: like rounded, over 30 %% of the weights first (default: "
    text += "rounded for large banks on the CPU, else exact)"
    add_options(speed, [("--scoring", get_args(Scoring), None, text)])
    text = "with --scoring screened: .npy file of real inputs, float32 (images, ...), that select "
    text += "the weights to score first (default: random inputs)"
    speed.add_argument("--sample", type=to_path, metavar="FILE", help=text)
    text = "compare the model with the bank before writing OUTPUT (default: --check)"
    action = argparse.BooleanOptionalAction
    speed.add_argument("--check", action=action, default=True, help=text)
    return made
