"""The lung chain: a whole CT series in, located, outlined and scored nodules out. One file for each of its steps."""
