"""The shared parts of the tests: server processes, clients and handlers."""
