"""What the tests share: each thing once.

- `frames.py`, `upgrade.py`, `pushes.py`: bytes of the wire, good and bad, and how they are read.
- `rig.py`: what is started for a test and has ended after it. `servers.py`, `openssl.py`,
  `proxies.py` and `network.py` are such rigs; `certificates.py` is for their TLS.
- `programs.py`: programs of a user's, in other processes.
- `recording.py`, `bench.py`, `connections.py`: the library's side: a stream's callbacks, streams
  that have them, a connection.
- `ledger.py`: numbered events, those that were sent against those that came.
- `records.py`: TLS records by hand; `gil.py`: who lets go of the GIL.
- `credentials.py`: a pytest plugin that watches for leaked secrets in every test.
- `sessions.py`: a session with the exchange that is fed bytes.
"""
