"""Launchers for runs on many machines."""
