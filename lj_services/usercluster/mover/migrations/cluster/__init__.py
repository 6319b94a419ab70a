"""The mover's own row beside a user's fence."""
