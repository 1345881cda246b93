"""Handlers of the benchmark: each computes y = 2x + 1 of one FP32 tensor."""
