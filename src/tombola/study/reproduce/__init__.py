"""Reproductions of papers: a file says which studies are run, what the paper claims, and where the answer stands."""
