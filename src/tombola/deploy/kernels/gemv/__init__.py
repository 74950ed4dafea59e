"""Sparse linear layers on one input vector: bound by memory, so the weights are few bytes that are read once."""

from tombola.deploy.kernels.gemv.forms import Form, build, forms

__all__ = ["Form", "build", "forms"]
