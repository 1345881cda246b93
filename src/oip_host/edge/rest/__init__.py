"""V2 over HTTP."""
