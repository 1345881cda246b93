"""The same host several times at one address."""
