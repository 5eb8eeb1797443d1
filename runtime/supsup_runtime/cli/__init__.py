"""The commands of the base install, on argparse: they need nothing but the runtime."""
