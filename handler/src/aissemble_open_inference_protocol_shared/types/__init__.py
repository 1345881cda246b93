"""Re-exports of the messages."""
