"""The mask bank on disk, format 2 (docs/FORMAT.md)."""
