"""The command line: `demo` shows the agent's rules at work; `get` sends many requests and reports on them.

The library itself does not import this package.
"""
