"""Assembling the host, and the life of its process."""
