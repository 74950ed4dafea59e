"""Data: the field's standard sets, image folders and the user's own; split, and fed in a seeded order."""
