"""The model of a whole bank: select or superpose masks, infer the task, run the network."""
