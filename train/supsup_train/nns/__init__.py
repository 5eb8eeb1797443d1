"""Scenario NNs: training without task labels."""
