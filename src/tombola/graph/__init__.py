"""The one reader of networks: torch.export to functional ATen operations, one name each, their weights by name."""
