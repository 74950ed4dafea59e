"""What tells a ticket at initialisation: statistics of masks before training, against what they reach."""
