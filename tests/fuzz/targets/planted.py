"""Planted faults, one for each kind of finding; no target of a campaign."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

from fuzz.case import Case
from fuzz.target import Reach, Target, Wrong
from supsup_runtime.errors import InputError

FAULTS = (
    "none",
    "refused",
    "foreign",
    "wrong",
    "memory",
    "outside",
    "large",
    "hang",
    "wait",
    "died",
)


class Planted(Target):
    """Has the faults in turn."""

    def make(self, rng: Random) -> Case:
        return Case(files={"data": rng.randbytes(4)})

    def use(self, folder: Path, case: Case, reach: Reach) -> None:
        fault = (self.seeds / "fault").read_text()
        reach("header")
        if fault == "refused":
            raise InputError(fault)
        if fault == "foreign":
            raise KeyError(case.size)
        if fault == "wrong":
            raise Wrong(fault)
        if fault == "memory":
            bytearray(1 << 40)
        if fault == "outside":
            (folder.parent / "outside" / "more").touch()
        if fault == "large":
            bytearray(b"1" * (200 << 20))
        if fault == "hang":  # as the timer does after ten seconds
            signal.raise_signal(signal.SIGPROF)
        if fault == "wait":
            os.mkfifo(folder / "pipe")
            (folder / "pipe").read_bytes()  # nobody writes
        if fault == "died":
            os.kill(os.getpid(), signal.SIGSEGV)
        reach("load")
        reach("call")
