"""LLVM code emitted and compiled for this machine, and what runs it on threads."""
