"""Policy, and nothing else.

Begin with `core.py`, whose first page is the theory of the whole: which socket serves which request, which may stay
free and for how long. `resend.py` judges whether a request that lost its connection is sent again. Times come in as
arguments, decisions go out as values. Standard library only: no I/O, no clock, no lock.

May import nothing of ours.
"""
