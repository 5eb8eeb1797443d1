"""What `tools/arm.py` runs on emulated ARM cores, and how."""
