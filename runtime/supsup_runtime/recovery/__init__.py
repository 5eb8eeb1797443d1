"""Recover a mask from a Hopfield store by descending on the entropy of a stream of inputs."""
