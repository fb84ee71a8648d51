"""A window of tokens to a training example: blank infilling, causal language modelling, FIM, multi-task."""
