"""Ray clusters: the same banks, lost nodes, and those that are refused, soon and by name."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster
from commands import run_program
from fuzz.deaths import files
from side_by_side import OPTIONS, begun, one_after_another
from supsup_runtime.errors import InputError
from supsup_train import Workers
from supsup_train.workers import cluster as cluster_module
from supsup_train.workers import work
from supsup_train.workers.cluster import _unreachable
from supsup_train.workers.learn_units import learn_units
from supsup_train.workers.work import Unit

NAMES = [f"t{index}" for index in range(7)]
UNITS = [(index,) for index in range(7)]


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


@pytest.mark.slow
class TestCluster:
    """Two nodes of one core each, as processes of this machine."""

    @pytest.fixture
    def cluster(self) -> Iterator[Cluster]:
        pytest.importorskip("ray", reason="needs Ray: pip install 'supsup[ray]'")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        yield made
        made.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves it untyped

    def test_banks_are_those_of_one_after_another(self, cluster: Cluster, tmp_path: Path) -> None:
        cluster.add_node(num_cpus=1)
        words = [*OPTIONS, "--tasks", 40, "--cluster", cluster.address, "--bank", tmp_path / "b"]
        run_program("supsup-train", *words)
        assert files(tmp_path / "b") == one_after_another()

    def test_a_killed_node_loses_no_task(self, cluster: Cluster, tmp_path: Path) -> None:
        node, bank = cluster.add_node(num_cpus=1), tmp_path / "b"
        with begun(bank, "--cluster", cluster.address) as (driver, err):
            for line in err:
                if line.startswith("permuted-0004"):
                    cluster.remove_node(node, allow_graceful=False)
                if line.startswith("permuted-0014"):
                    cluster.add_node(num_cpus=1)  # a new one joins
            assert driver.wait(timeout=60) == 0
        assert files(bank) == one_after_another()

    def test_nodes_with_other_versions_are_refused_by_name(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine = work.versions()
        monkeypatch.setattr(cluster_module, "versions", lambda: {**mine, "supsup": "9.9"})
        where = Workers(count=0, cluster=cluster.address)
        text = r"^node .+: supsup must be 9\.9, as where the command runs, got .+; install the same"
        with pytest.raises(InputError, match=text):
            list(learn_units(lambda unit: unit[0], UNITS, NAMES, where))

    def test_another_address_than_that_of_the_process_is_refused(self, cluster: Cluster) -> None:
        import ray

        ray.init(cluster.address, log_to_driver=False)
        try:
            found = learn_units(Unit, UNITS, NAMES, Workers(count=0, cluster="auto"))
            assert [result.made for result in found] == UNITS
            where = Workers(count=0, cluster="127.0.0.1:1")
            with pytest.raises(InputError, match=f"connected to {cluster.address} already"):
                list(learn_units(Unit, UNITS, NAMES, where))
        finally:
            ray.shutdown()

    def test_tasks_that_no_node_has_room_for_are_refused(self, cluster: Cluster) -> None:
        where = Workers(count=0, threads=4, cluster=cluster.address)
        text = "^--threads: a node must have 4 cores for a task, the largest has 1; give fewer$"
        with pytest.raises(InputError, match=text):
            list(learn_units(Unit, UNITS, NAMES, where))

    def test_errors_of_tasks_come_out(self, cluster: Cluster) -> None:
        where = Workers(count=0, cluster=cluster.address)

        def refuse(unit: Unit) -> int:
            raise InputError(f"task {unit}: is bad")

        def fail(_: Unit) -> int:
            raise ModuleNotFoundError("No module named 'mine'")

        def die(_: Unit) -> int:
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        for learn, text in (
            (refuse, r"^task \(0,\): is bad$"),
            (fail, r"^a node of the cluster cannot learn 't0': ModuleNotFoundError\(.*; install "),
            (die, r"^task 't0': its worker died 3 times: .*; if memory was short, use fewer "),
        ):
            with pytest.raises(InputError, match=text):
                list(learn_units(learn, UNITS, NAMES, where))
