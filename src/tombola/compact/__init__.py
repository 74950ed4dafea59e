"""Exact removal of dead units and channels from a traced network."""
