"""Recover masks from a Hopfield store."""
