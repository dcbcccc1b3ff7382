"""The `melody` command: one file per subcommand, in which `main.py` finds

  add_arguments(parser)   the command's own arguments
  run(args)               does it, prints what came of it, and returns the exit code (None is 0)
  EPILOG                  the end of its help, if there is one: what exit codes mean, what the help text leaves out

Whatever is wrong with arguments, files or data, `run` raises a UserError, before any work is lost; `main.py` prints it as one
line and exits with code 2. A training that was stopped is a StoppedError, with an exit code of its own.
"""
