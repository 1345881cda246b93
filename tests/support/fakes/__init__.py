"""Handlers that the tests serve: real but small ones.

Those of this package are `fakes:Name`; those with their own directory or subject are in
its modules, as `fakes.batches:Name`.
"""

from .answers import (
    Async,
    Configured,
    Free,
    Lists,
    NoMetadata,
    NotANumber,
    Raises,
    Slow,
    Tells,
    Together,
    Two,
    Words,
    make_echo,
)
from .echo import (
    Echo,
    as_output,
)
from .gates import (
    Gated,
    GatedAsync,
    pass_gate,
)
from .kserve_models import (
    KServeDouble,
    KServeGated,
    KServeLoads,
)
from .loads import (
    InitRaises,
    LoadFalse,
    LoadRaises,
    NoHandler,
    NotHealthy,
    SlowLoad,
    Unloads,
)

__all__ = [
    "Async",
    "Configured",
    "Echo",
    "Free",
    "Gated",
    "GatedAsync",
    "InitRaises",
    "KServeDouble",
    "KServeGated",
    "KServeLoads",
    "Lists",
    "LoadFalse",
    "LoadRaises",
    "NoHandler",
    "NoMetadata",
    "NotANumber",
    "NotHealthy",
    "Raises",
    "Slow",
    "SlowLoad",
    "Tells",
    "Together",
    "Two",
    "Unloads",
    "Words",
    "as_output",
    "make_echo",
    "pass_gate",
]
