"""What the edges check and tell alike."""
