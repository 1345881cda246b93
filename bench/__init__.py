"""The benchmark of the repository: this host beside its floor and its peers.

`run.py` is the program. For each round and each server it

1. starts the server (`servers.py` has the command, `processes.py` runs it),
2. has `load.py`, in a process of its own, send the requests of each load through
   `clients.py` and read the server's CPU time with `measure.py`; `workloads.py` lists
   the loads, `bodies.py` makes the bytes and checks the answer,
3. stops the server.

`rounds.py` is that loop. `environments.py` installs the peers and the plugin
`handlers/`; `apps/` has the floor and the models of the peers. `results.py` keeps the
records, `summary.py` makes figures of them, `tables.py` and `chart.py` show those, and
`report.py` puts them into the documentation.

`startup.py`, `profile.py`, `scaling.py` and `thresholds.py` are programs of their own.
`scaling.py` has the ways to serve a model in `ways.py`, and starts and loads a host in
`sample.py`.
"""
