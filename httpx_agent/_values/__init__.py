"""What users give and get; all of it is frozen.

Begin with `options.py`: every option, what it means and what it accepts; `names.py` explains names that other libraries
use for them. `origins.py` has the keys of sockets and the patterns that match origins, `environment.py` the proxies
that the environment names, `status.py` the snapshots that an agent returns.

May import `_rules`, `_protocol`, `_runtime` and `_family`.
"""
