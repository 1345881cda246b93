"""Logs, counts and traces."""
