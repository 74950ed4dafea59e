"""Data: the field's standard sets, image folders and the user's own, cut into splits and fed in a seeded order."""
