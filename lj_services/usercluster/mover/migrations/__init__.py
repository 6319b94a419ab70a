"""Migrations of the mover."""
