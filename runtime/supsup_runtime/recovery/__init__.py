"""Recover a mask from a Hopfield store, given a stream of inputs."""
