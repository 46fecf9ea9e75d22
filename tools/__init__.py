"""Thin tools over the passes: Python API, commands, reports, benchmark."""
