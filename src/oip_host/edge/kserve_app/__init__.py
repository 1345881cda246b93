"""KServe's own application behind ours: V1 and what it brings."""
