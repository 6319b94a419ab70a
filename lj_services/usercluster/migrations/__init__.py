"""Numbered migrations of the tables of users; see `lj_services.database.migrations`."""
