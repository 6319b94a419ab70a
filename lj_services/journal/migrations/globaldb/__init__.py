"""Migrations of ``global``."""
