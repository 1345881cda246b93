"""The only folder that imports kserve."""
