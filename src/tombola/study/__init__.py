"""Studies: what is proved about tickets, with controls and intervals."""
