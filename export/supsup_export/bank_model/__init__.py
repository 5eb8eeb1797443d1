"""The model of a whole bank."""
