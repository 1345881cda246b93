"""Kubernetes documents for a configured host."""
