"""V2 over gRPC."""
