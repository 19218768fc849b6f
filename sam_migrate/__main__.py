"""`python -m sam_migrate`: the command line, and how the API starts its workers."""

from sam_migrate.entrypoints.cli import main

main(prog_name="sam-migrate")
