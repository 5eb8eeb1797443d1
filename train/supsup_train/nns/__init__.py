"""Scenario NNs: tasks that nobody names, allocated where the learner is uncertain."""
