"""Finding, choosing and installing code."""
