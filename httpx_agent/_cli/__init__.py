"""The command line: `demo` shows the agent's rules at work, `get` sends many requests and reports.

The library does not import this package.
"""
