"""The ticket: origin of the weights, mask, trained weights and provenance in one safetensors file."""
