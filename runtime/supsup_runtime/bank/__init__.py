"""The mask bank on disk, format 1 (docs/FORMAT.md)."""
