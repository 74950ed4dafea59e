"""Double descent: test error over the size of models, below and above the size that fits every training example."""
