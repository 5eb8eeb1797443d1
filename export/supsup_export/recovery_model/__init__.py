"""The models that recover masks, by step or by stream."""
