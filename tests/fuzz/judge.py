"""Run one case within limits and return its verdict."""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from fuzz.case import Case, read_files
from fuzz.target import Reach, Target, Wrong
from supsup_runtime.errors import SupSupError
from supsup_runtime.evaluation.needs import process_bytes, reset_peak

CPU_SECONDS, WALL_SECONDS = 10, 600
"""Of a case: the second is the last resort; `fuzz.waiting` sees before that a case waits."""
_ROOM = 3 << 30
"""Address space for a case; beyond it there is a MemoryError."""
_SHARED = Path("/dev/shm")  # noqa: S108 - a file system in memory
_PACKAGES = ("supsup_runtime", "supsup_export", "supsup_train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a case.

    Attributes:
        kind: ``answer``, ``refused``, or a finding: ``foreign`` exception, ``wrong``, ``memory``,
            ``hang``, ``endless`` (in the graph, inside ONNX Runtime) or ``died``.
        what: What happened, the same for findings of the same cause.
        detail: The message of this case.
        peak: Bytes taken at most.
    """

    kind: str
    what: str = ""
    detail: str = ""
    peak: int = 0


def work_folder() -> Path:
    """A folder of one's own, in memory where possible."""
    return Path(mkdtemp(prefix="supsup-fuzz-", dir=_SHARED if _SHARED.is_dir() else None))


def limit_process(stacks: IO[str]) -> None:
    """Let a hang end this process, with its stack in a file, and too much memory be an error."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        faulthandler.register(number, file=stacks, all_threads=False, chain=True)
    room = process_bytes("VmSize") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judge(target: Target, case: Case, folder: Path, reach: Reach) -> Verdict:
    """Lay a case out in ``folder/case``, beside ``folder/outside`` that must not change; use it."""
    inner, outside = folder / "case", folder / "outside"
    for each in (inner, outside):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()
    (outside / "secret").write_bytes(b"SECRET")
    case.write(inner)
    reset_peak()
    before = process_bytes("VmRSS")
    verdict = _timed(target, case, inner, reach)
    peak = max(0, process_bytes("VmHWM") - before)
    if read_files(outside) != {"secret": b"SECRET"}:
        verdict = Verdict(kind="wrong", what="wrote outside its folder")
    bound = target.memory(case)
    if peak > bound and verdict.kind in {"answer", "refused"}:
        what = f"more than the bound, {verdict.kind}: {verdict.what}"
        verdict = Verdict(kind="memory", what=what, detail=f"{peak >> 20} MiB of {bound >> 20}")
    return Verdict(kind=verdict.kind, what=verdict.what, detail=verdict.detail, peak=peak)


def _timed(target: Target, case: Case, folder: Path, reach: Reach) -> Verdict:
    before = Path.cwd()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
    try:
        target.use(folder, case, reach)
    except SupSupError as error:
        return Verdict(kind="refused", what=type(error).__name__, detail=str(error)[:300])
    except Wrong as error:
        return Verdict(kind="wrong", what=str(error))
    except MemoryError as error:
        return Verdict(
            kind="memory", what=f"MemoryError at {_place(error)}", detail=str(error)[:300]
        )
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        what = f"{type(error).__name__} at {_place(error)}"
        return Verdict(kind="foreign", what=what, detail=f"{error!s:.300}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.chdir(before)
    return Verdict(kind="answer")


def _place(error: BaseException) -> str:
    """The innermost line of ours that an exception passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(f"/{package}/" in f.filename for package in _PACKAGES)]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).parent.name}/{Path(frame.filename).name} {frame.name}"


def ended(status: int, stack: str) -> Verdict:
    """What came of a case whose process ended, by its exit status and the stack of a hang."""
    lines = [line.strip() for line in stack.splitlines() if line.strip().startswith("File")]
    ours = next((line for line in lines if any(f"/{p}/" in line for p in _PACKAGES)), "")
    place = Path(ours.partition('"')[2].partition('"')[0]).name + ours.rpartition(" in")[2]
    if -status in {signal.SIGPROF, signal.SIGALRM}:
        inside = lines and "onnxruntime" in lines[0] and " in run" in lines[0]
        return Verdict(
            kind="endless" if inside else "hang", what=place, detail="\n".join(lines[:8])
        )
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return Verdict(kind="died", what=f"{name} {place}", detail="\n".join(lines[:8]))
