"""What `make bench` runs: a real server, measured as a client sees it, against the numbers to reach.

`python -m benchmarks` measures everything that needs no checkpoint, `python -m benchmarks chain growth` some of it.
Nothing here fails for being slow: it prints.
"""
