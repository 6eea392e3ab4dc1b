"""The agent at work: one request, from its arrival to the end of its response.

Begin with `exchange.py`, which tells that story as flows that run in threads and in event loops alike. `pool.py` is the
entrance: it has the interface of httpcore's pool. `bodies.py` has the bodies of responses, whose end releases a socket.
`dispatcher.py` owns the lock and everything that the lock guards. It asks the rules, records what they decide, and acts
once the lock is released. `ticket.py` is its record of a request, `socket.py` is one pooled socket, `steps.py` has the
steps of flows that touch sockets, and `errors.py` words what went wrong. `observer.py` is the interface through which
telemetry hears of events, and `reference_cycle.py` lets a response that was read be freed when it is dropped.

Four words recur. A *ticket* is the dispatcher's record of a request; an *exchange* is a ticket with the flows that
carry the request through. A *grant* is the core's permission to use a socket. A *home* is where a socket can be used:
the sync world, or one event loop.

May import `_connection` and everything below it. Locks may be taken only in the order
of the table *Lock order* in `docs/contributing/architecture.md`.
"""
