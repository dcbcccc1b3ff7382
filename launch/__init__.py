"""Launchers for runs on many machines. `job.Job` is the one description that feeds those for TPU VMs, GKE and SLURM."""
