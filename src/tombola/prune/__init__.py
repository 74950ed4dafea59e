"""The pruning loop: levels, rewinding, held masks."""
