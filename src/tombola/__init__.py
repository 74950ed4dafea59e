"""Tombola draws winning tickets from neural networks: find sparse subnetworks, prove that they win, use them.

Importing this package costs next to nothing: the names in `__init__.pyi` are loaded when they are first used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
