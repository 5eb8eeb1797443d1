"""Ray clusters that are not there are refused, soon and by name."""

from __future__ import annotations

import socket
import sys

import pytest

from supsup_runtime.errors import InputError
from supsup_train import Workers
from supsup_train.workers import Unit, _unreachable, learn_units

UNITS, NAMES = [(0,)], ["t0"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "here", "a:99999"])
def test_a_cluster_that_does_not_answer_is_refused(address: str) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'supsup[ray]'")
    text = f"^--cluster: {address} must be HOST:PORT of a Ray cluster that runs, or auto: .*; start"
    with pytest.raises(InputError, match=text):
        list(learn_units(Unit, UNITS, NAMES, Workers(count=0, cluster=address)))


def test_other_versions_of_ray_are_told_whole() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 1.0\nPython: 2")
    found = str(_unreachable("head:6379", error))
    assert found.endswith("was started with: Ray: 1.0 Python: 2; install the same here")


@pytest.mark.slow
def test_a_port_where_no_cluster_answers_is_refused() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'supsup[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^--cluster: {address} must be .*no answer in 10 s"):
            list(learn_units(Unit, UNITS, NAMES, Workers(count=0, cluster=address)))


def test_auto_needs_a_cluster_of_this_machine() -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'supsup[ray]'")
    with pytest.raises(InputError, match=r"^--cluster: auto must be .*; start one with: ray start"):
        list(learn_units(Unit, UNITS, NAMES, Workers(count=0, cluster="auto")))


def test_a_cluster_needs_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    text = "^--cluster needs ray, which is not installed; pip install 'supsup\\[ray\\]'$"
    with pytest.raises(InputError, match=text):
        list(learn_units(Unit, UNITS, NAMES, Workers(count=0, cluster="auto")))
