"""Prints the table of all parameters, in Markdown."""

from lj_services.perlbal.tunables import table

print(table())
