"""Migrations of user clusters."""
