"""The values that users pass in and get back; all of them are frozen.

Begin with `options.py`: every option, its meaning and the values it accepts; `option_hints.py` explains
unknown names: other libraries' and misspelt ones. `origins.py` has the keys of sockets and the patterns that match
origins, `environment.py` the proxies from environment variables, `status.py` the snapshots that an agent returns.

May import `_rules`, `_protocol`, `_runtime` and `_family`.
"""
