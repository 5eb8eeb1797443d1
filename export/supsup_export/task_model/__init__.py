"""The model of one task."""
