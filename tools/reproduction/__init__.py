"""Experiments that fill the tables of the documentation."""
