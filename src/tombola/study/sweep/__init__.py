"""Many searches from one description: settings crossed with seeds, each a run as `find` makes it."""
