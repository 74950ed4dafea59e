"""Errors that a user can mend: one line each, shown by the CLI without a traceback (exit status 2)."""

from __future__ import annotations


class TombolaError(ValueError):
    """Something the user gave cannot be used. The message says what was found, what is allowed, how to mend."""


class TicketError(TombolaError):
    """A ticket file is truncated, foreign, tampered with, or does not fit the model it is put on."""


class RunError(TombolaError):
    """A run directory is in use by another process, or was made with other versions or settings."""
