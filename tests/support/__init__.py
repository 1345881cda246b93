"""What the tests share: a server process, and handlers to serve."""
