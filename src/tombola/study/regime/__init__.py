"""Which regime a ticket lives in: above or below the number of weights that fits every training example."""
