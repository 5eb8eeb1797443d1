"""The models that recover masks from a Hopfield store: one step per call, or a whole stream."""
