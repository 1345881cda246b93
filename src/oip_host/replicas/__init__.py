"""A model in replicas of Ray Serve."""
