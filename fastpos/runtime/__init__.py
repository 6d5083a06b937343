"""The only place with threads: reading, pinging, calling the user's functions."""
