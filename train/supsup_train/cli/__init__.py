"""The commands of training, on Typer."""
