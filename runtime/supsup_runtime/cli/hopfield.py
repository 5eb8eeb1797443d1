"""The command supsup-hopfield."""

from __future__ import annotations

import argparse
import warnings

from supsup_runtime.bank.bank import MaskBank
from supsup_runtime.cli.recover import add_recovery_options, recover
from supsup_runtime.console import (
    CommandParser,
    parser,
    print_result,
    say,
    to_path,
    to_table,
)
from supsup_runtime.errors import BankError, CapacityWarning
from supsup_runtime.hopfield.file import (
    MAX_DISTANCE,
    STORE_FILE,
    delete_masks,
    encode_into,
    has_store,
    read_store,
)
from supsup_runtime.hopfield.matrix import DTYPES, RULES
from supsup_runtime.hopfield.store import HopfieldStore

_EXAMPLES = (
    "encode --bank masks/",
    "encode --bank masks/ --rule hebb --dtype float16 digits-01",
    "encode --bank masks/ --delete-masks",
    "recover recover.onnx stream.npy",
)


def run() -> None:
    """Run the command."""
    made = parser(
        "supsup-hopfield",
        "Store the masks of a bank in a Hopfield network of fixed size, and recover them.",
        _EXAMPLES,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = f"Encode tasks into {STORE_FILE}, one by one; keeps the tasks encoded before."
    _add_encoding_options(commands.add_parser("encode", help=text, description=text))
    text = "Recover a task's mask from its inputs, with a model made by supsup-export --hopfield."
    add_recovery_options(commands.add_parser("recover", help=text, description=text))
    arguments = made.parse_args()
    if arguments.command == "recover":
        recover(arguments)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("always", CapacityWarning)
        warnings.showwarning = _say_warning
        _encode(arguments)


def _add_encoding_options(made: CommandParser) -> None:
    made.what_in.add_argument(
        "--bank", type=to_path, required=True, metavar="PATH", help="folder of the bank"
    )
    made.what_in.add_argument(
        "tasks", nargs="*", metavar="TASK", help="task to encode (default: all not yet encoded)"
    )
    made.what_out.add_argument(
        "--delete-masks",
        action="store_true",
        help="after encoding, delete the task files of each TASK, or of all encoded tasks if none "
        "is given. Refused if the store returns a mask with more than "
        f"{100 * MAX_DISTANCE:g} %% of its bits changed. Deletes the training records and each "
        "task's own state too; the store keeps the mean state",
    )
    made.what_out.add_argument("--json", action="store_true", help="print the result as JSON")
    text = "learning rule of a new store (default: storkey)"
    made.method.add_argument("--rule", choices=RULES, help=text)
    text = "data type of a new store (default: float32)"
    made.method.add_argument("--dtype", choices=DTYPES, help=text)


def _encode(arguments: argparse.Namespace) -> None:
    bank = MaskBank.open(arguments.bank, verify=False)
    known = read_store(bank).task_names if has_store(bank) else ()
    wanted = list(dict.fromkeys(arguments.tasks)) or [n for n in bank.task_names if n not in known]
    # encoded tasks may be deleted, but not encoded again
    new = [n for n in wanted if n not in known] if arguments.delete_masks else wanted
    if not new and not known:
        raise BankError(
            f"{bank.path}: the bank has no task to encode; add one with supsup-train or "
            "supsup-bank add"
        )
    store, errors = encode_into(bank, new, rule=arguments.rule, dtype=arguments.dtype)
    deleted: list[str] = []
    if arguments.delete_masks:
        named = arguments.tasks or store.task_names
        deleted = [n for n in bank.task_names if n in named]  # the rest were deleted before
        delete_masks(bank, deleted)  # even none: removes what an interruption left
    _say(bank, store, errors, deleted=deleted, as_json=arguments.json)


def _say(
    bank: MaskBank,
    store: HopfieldStore,
    errors: dict[str, dict[str, float]],
    *,
    deleted: list[str],
    as_json: bool,
) -> None:
    size = (bank.path / STORE_FILE).stat().st_size
    value = {
        "bit_errors": errors,
        "bytes": size,
        "deleted": deleted,
        "dtype": store.dtype,
        "encoded": list(errors),
        "num_encoded": len(store),
        "num_explicit": len(bank),
        "rule": store.rule,
    }
    rows = [(name, *(f"{e:.4f}" for e in by.values())) for name, by in errors.items()]
    lines = [to_table(("task", *(f"bit error {p}" for p in store.matrices)), rows)] if rows else []
    lines.append(
        f"{bank.path / STORE_FILE}: {len(errors)} encoded, {len(store)} in total, rule "
        f"{store.rule}, {store.dtype}, {size:,} bytes"
    )
    if deleted:
        lines.append(f"{bank.path}: {len(deleted)} task files deleted, {len(bank)} left")
    print_result(value, as_json=as_json, text="\n".join(lines))


def _say_warning(message: Warning | str, *_place: object, **_more: object) -> None:
    """Replace `warnings.showwarning`: print the message alone."""
    say(f"supsup-hopfield: warning: {message}")
