"""The commands of training: each takes its options, and calls the library."""
