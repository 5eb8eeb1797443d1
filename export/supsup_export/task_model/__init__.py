"""The model of one task: ``x`` in, ``logits`` out, nothing to select."""
