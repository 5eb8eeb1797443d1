"""The networks that tasks mask, and the bank made of one."""
