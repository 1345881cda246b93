"""Import paths of aissemble-open-inference-protocol-kserve, for its programs."""
