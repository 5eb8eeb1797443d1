"""The parts of `tools/bench.py`: how times are taken, what is compared, and one module a case."""
