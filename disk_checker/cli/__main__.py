"""``python -m disk_checker.cli``: the command, where it is not on PATH."""

from disk_checker.cli import main

main()
