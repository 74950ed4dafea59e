"""Run directories: named by content, locked by one writer, made of stages that are reused."""
