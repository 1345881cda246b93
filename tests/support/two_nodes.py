"""A Ray of two nodes on the loopback interface: `two_nodes.py <directory>`.

Prints its address and the process of its second node, kills that node at a line of
input, and ends with its standard input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ray.cluster_utils import Cluster


def main() -> None:
    """Run the nodes until the standard input ends."""
    # Ray's utility writes the address there, but does not create the directory
    os.environ["RAY_TMPDIR"] = sys.argv[1]
    Path(sys.argv[1], "ray").mkdir()
    head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": sys.argv[1]}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(num_cpus=1)
    (raylet,) = second.all_processes["raylet"]
    print(cluster.address, raylet.process.pid, flush=True)
    if sys.stdin.readline():
        cluster.remove_node(second, allow_graceful=False)
        print("killed", flush=True)
        sys.stdin.read()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
