"""fastpos beside the clients people use today, on real sockets and the exchange's own frames.

    pytest benchmarks                  every group, then a table of rates and ratios
    pytest benchmarks --quick          the same groups in about a minute, with more noise
    python -m benchmarks.report        writes results.md, results.json and chart.svg
    python -m benchmarks.capacity      writes docs/capacity.md, from what results.md says

How it measures:

* The server is a process of its own, and so is each peer. A host program is what the peer's
  process plays: with nothing else to do, or with a thread that computes in plain Python.
* The server sends bytes that were built, and over TLS encrypted, before the clock starts, so
  that a fast client never waits for it.
* Peers take turns, ABCABC and not AAABBB: whatever else the machine does at that moment meets
  them all. A round is short. A rate is the median of its rounds; a ratio is taken within each
  round, and then its median. Latencies are percentiles over the samples of all rounds.
* Nothing asserts a time: a slow machine is no failure.

* The fastpos that is measured is the one that was installed, not the folder beside this one:
  for every process of the benchmarks, the end of this file sees to it.

In the order in which a run meets them: `report` and `conftest` ask `groups` for the
measurements; `groups`, and `fleet` where a process has many streams, drive the processes
(`worker`): `server`, and `client` with one of `peers`, or `decoding` with one of `decoders`; what
comes back is kept and compared in `results`. `journals`, `publishers` and `takeovers` have groups
with processes of their own: `rereading`, `publishing`, `sharing`.
"""

import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent

# Behind what is installed, and not gone: `benchmarks` itself is found there.
_elsewhere = [entry for entry in sys.path if Path(entry).resolve() != _CHECKOUT]
sys.path[:] = [*_elsewhere, str(_CHECKOUT)]
