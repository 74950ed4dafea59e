"""Fast inference of tickets and of any network with zeros in its weights: `deploy`, kernels, plans, bench, export."""
