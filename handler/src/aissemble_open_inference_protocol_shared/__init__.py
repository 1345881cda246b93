"""Import paths of aissemble-open-inference-protocol-shared, for its handlers."""
