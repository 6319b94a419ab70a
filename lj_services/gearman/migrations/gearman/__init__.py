"""The Gearman server's tables."""
