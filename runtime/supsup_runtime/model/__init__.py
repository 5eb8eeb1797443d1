"""An exported model at run time: load it, predict with it, infer the task."""
