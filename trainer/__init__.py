"""The training loop and what it stands on: optimisers, schedules, the loader, checkpoints, metrics."""
