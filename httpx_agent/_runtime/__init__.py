"""Threads, event loops, forks and interruptions: where and how work runs.

Begin with `flows.py`: a flow is a generator of steps, driven by a thread or a task. `homes.py` has the places where a
socket can be used: the threads of the process, or one event loop; `watchers.py` looks after the free sockets there.
`process.py` deals with forks, `locks.py` with finalisers and interruptions, `contexts.py` with context variables,
`clock.py` with machines that sleep, `causes.py` with chains of exceptions.

May not import any other part of the package.
"""
