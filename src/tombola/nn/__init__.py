"""What a network may be rewritten with: weight representations, binary activations, seeded initialisation."""
