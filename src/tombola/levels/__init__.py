"""What methods are made of: a search and its levels, the pruning loop, learned masks, rewinding."""
