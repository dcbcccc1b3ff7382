"""The `melody` command: parses, calls, prints.

A subcommand is a function under `@arguments.command(...)`, which lists its options; `main.COMMANDS` says in which file it is.
Whatever is wrong with arguments, files or data, the function raises a UserError, before any work is lost; `main.py` prints it
as one line and exits with code 2. A training that was stopped is a StoppedError, with an exit code of its own.
"""
