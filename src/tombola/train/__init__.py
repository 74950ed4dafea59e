"""The training loop, its recipe, hooks and checkpoints."""
