"""Sockets to requests: HTTP, TLS and limits; knows no model."""
