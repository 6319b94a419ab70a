"""The moves, in `global`."""
