"""What the tests share: each thing once.

- `frames.py`, `upgrade.py`, `pushes.py`: bytes of the wire, good and bad, and how they are read.
- `rig.py`: what is started for a test and has ended after it. `servers.py`, `openssl.py`,
  `proxies.py` and `network.py` are such rigs; `certificates.py` is for their TLS.
- `recording.py`, `connections.py`: the library's side: a stream's callbacks, a connection.
- `programs.py`: the command line and scripts, run as a user runs them.
- `credentials.py`: a pytest plugin that watches for leaked secrets in every test.
"""
