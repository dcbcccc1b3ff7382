"""A launch before machines are paid for: its training on a simulated pod of this machine, and what its slices would take."""
