"""Numbered migrations of the site's tables."""
