"""The edge: bytes of REST and gRPC ↔ messages; the only package that knows servers."""
