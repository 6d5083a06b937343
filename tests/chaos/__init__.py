"""Faults on purpose, one after the other, on a stream to which numbered events flow.

    python -m tests.chaos [--seed N] [--rounds N] [--fleet [N] [--callback-threads N]]
                          [--page docs/explanation/faults.md] [FAULT ...]

`faults.py` is the table of what goes wrong and what is expected then. `trial.py` puts a stream
through one of them and measures; `rig.py` is what it needs for that: the simulator behind a network
(`TcpProxy` of tests/support) on a host (`host.py`) whose clock and name service can go wrong.
With `--fleet` the stream is one of many that a `Fleet` drives; the others (`neighbours.py`) are at
exchanges of their own (`market.py`), and must notice nothing. `__main__.py` is the command, and
`under_gevent.py` the same where threads are greenlets.

Everything random comes from the seed: the order of the faults, their parameters, the pauses, and
the stream's waits before it reconnects. What threads and the kernel do between is not repeatable.
"""
