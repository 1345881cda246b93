"""The floor, and the models of the peers as their own documentation shows them."""
