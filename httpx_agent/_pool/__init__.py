"""The agent at work: one request, from its arrival to the end of its response.

Begin with `exchange.py`, which tells that story as flows that run in threads and in event loops alike. `pool.py` is the
front door, httpcore's pool interface; `bodies.py` has the response bodies whose end frees a socket. `dispatcher.py`
owns the lock and everything that it guards: it asks the rules, records what they decide, and acts once the lock is
free. `ticket.py` is what it knows of a request, `socket.py` one pooled socket, `steps.py` the steps of flows that touch
sockets. `errors.py` words what went wrong.

May import `_connection` and everything below it. Lock order: a home's watching lock, then the dispatcher's.
"""
