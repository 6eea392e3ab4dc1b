"""Policy, and nothing else.

Begin with `core.py`. Its first page is the theory of the agent: which socket serves which request, and which sockets
may stay free, and for how long. `resend.py` judges whether a request that lost its connection is sent again. Times come
in as arguments; decisions go out as values. Only the standard library is used: no I/O, no clock, no lock.

May not import any other part of the package.
"""
