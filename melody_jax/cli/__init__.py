"""The `melody` command: one file per subcommand."""
