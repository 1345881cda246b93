"""What all tests of this repository share, wherever they stand."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine draws and runs an example as slowly as it likes: time is no fault.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("suite")
