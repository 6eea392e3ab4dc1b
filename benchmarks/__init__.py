"""How fast is it? Clients and transports side by side, on one machine, in one run.

    python -m benchmarks --quick                    # about a minute
    python -m benchmarks                            # everything
    python -m benchmarks async sync --rounds 5 --json run.json

A *case* is a piece of work: so many tasks, such a body, TLS or not (``cases.py``). A *contender* is a client that does
it (``contenders/``). A *measurement* is one contender on one case in one round, in a process of its own
(``measure.py``), so that memory, imports and the garbage collector do not mix. Within a round all contenders of a case
follow one another, and the order rotates from round to round (``rounds.py``); what is compared is therefore measured
within seconds, and a ratio is always one of two measurements of the same round (``results.py``). The server is one
process on loopback: nginx where it is installed, else one that the benchmark brings (``servers.py``).

This is a benchmark, not a test: no test asks how long anything took.
"""
