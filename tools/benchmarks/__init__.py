"""Parts of `tools/bench.py`: timing, peers, and one module per case."""
