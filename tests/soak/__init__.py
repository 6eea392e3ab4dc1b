"""Random load, faults and cancellations on one agent, sync and async together, for as long as you like.

python -m tests.soak --minutes 60 --seed 7
"""
