"""Networks and their banks."""
