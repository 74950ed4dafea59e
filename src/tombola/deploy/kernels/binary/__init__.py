"""Layers of weights 0 and ± one magnitude on activations of -1 and +1, in packed bits."""

from tombola.deploy.kernels.binary.chain import Packed, PackedChoice, pack_binary

__all__ = ["Packed", "PackedChoice", "pack_binary"]
