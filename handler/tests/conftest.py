"""The test settings of the contract; its tests also run without the host."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# On a busy machine an example may be slow to draw and run: that is no failure.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")
