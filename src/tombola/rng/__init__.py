"""Random numbers: seeds derived by name, and the counter-based generator that initial weights come from."""
