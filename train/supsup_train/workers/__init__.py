"""Where tasks are learned: here, in processes side by side, or on a Ray cluster."""
