"""Re-exports of the handler contract."""
