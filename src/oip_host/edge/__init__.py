"""From bytes on a socket to a request, and back."""
