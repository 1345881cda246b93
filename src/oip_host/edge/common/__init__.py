"""Checks and documents that the edges share."""
