"""Runs `oip-host` or a program; at its end prints how often it read the options.

python count_reads.py oip-host serve --http_port=0
python count_reads.py my_program.py --http_port=0
"""

from __future__ import annotations

import atexit
import runpy
import sys
import threading
from typing import Any

from oip_host.config import configuration, sources

READERS = {
    function.__code__: function.__name__
    for function in (
        configuration.read,
        sources.from_arguments,
        sources.from_environment,
        sources.from_properties,
    )
}


def main() -> None:
    counts = dict.fromkeys(READERS.values(), 0)

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in READERS:
            counts[READERS[frame.f_code]] += 1

    def report() -> None:
        print(f"reads: {sorted(counts.items())}", file=sys.stderr, flush=True)

    atexit.register(report)
    threading.setprofile(profile)
    sys.setprofile(profile)
    del sys.argv[0]
    if sys.argv[0] == "oip-host":
        from oip_host.cli import main as command

        command()
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
