"""Find: a request (model, data, method, recipe, start) becomes a search; presets fill in what is left open."""
