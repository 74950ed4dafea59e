"""A deployed network as a library for C: object code, header and weights, without Python."""
