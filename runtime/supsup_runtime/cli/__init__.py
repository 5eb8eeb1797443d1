"""The commands of the runtime, on argparse alone."""
