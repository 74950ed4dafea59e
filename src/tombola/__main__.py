"""`python -m tombola` is the command `tombola`."""

from __future__ import annotations

import sys

from tombola.cli import main

if __name__ == "__main__":
    sys.exit(main())
