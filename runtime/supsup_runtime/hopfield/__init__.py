"""The Hopfield store: all masks of a bank in one matrix per parameter."""
