"""Migrations of every user cluster."""
