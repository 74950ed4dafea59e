"""Typed results and their statistics."""
