"""Data sets of arrays, and streams of tasks over them."""
