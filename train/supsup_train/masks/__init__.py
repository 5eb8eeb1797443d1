"""Learning the mask of one task."""
