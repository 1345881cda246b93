"""One model's life and work, and all models together."""
