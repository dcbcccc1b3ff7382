"""What an operator runs: opening a run and training it, the doctor, sweeps, compiling ahead of time.

Here the libraries meet gin and the data pipelines; `cli/` parses, calls and prints.
"""
