"""Migrations of balancing."""
