"""Weights of one's own, which a bank stores once (docs/FORMAT.md, "Stored weights")."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from supsup_runtime.bank.fields import canonical_json
from supsup_runtime.bank.network import Network
from supsup_runtime.bank.tensorfile import TensorFile
from supsup_runtime.files import inside, read_file, write_whole

STORED_FILE = "weights.safetensors"
FORMAT = 1
_FILE = TensorFile(
    kind="weights", formats={FORMAT: frozenset({"digest", "format"})}, max_header=1000
)


def write_stored(folder: Path, network: Network, digest: str) -> None:
    """Write the stored weights of a new bank, if it has any."""
    if stored := network.stored:
        tensors = {p.name: p.weight(network.weight_seed, 0) for p in stored}
        header = canonical_json({"digest": digest, "format": FORMAT})
        path = inside(folder, STORED_FILE)
        write_whole(path, _FILE.write(tensors, header, str(path)))


def with_stored(folder: Path, network: Network, digest: str) -> Network:
    """Return the network with the stored weights of its bank.

    Raises:
        BankError: If the file is missing or not of this network.
    """
    if not (stored := network.stored):
        return network
    path, names = inside(folder, STORED_FILE), [p.name for p in stored]
    most = 4 * sum(p.size for p in stored) + _FILE.frame_bytes(names)
    tensors, _ = _FILE.read(read_file(path, max_bytes=most), digest, {FORMAT: names}, str(path))
    parameters = tuple(
        p.with_values(tensors[p.name].copy(), str(path)) if p.name in tensors else p
        for p in network.parameters
    )
    return replace(network, parameters=parameters)
