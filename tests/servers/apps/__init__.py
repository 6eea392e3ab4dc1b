"""Applications that report the requests they received, one for each server interface.

All know the same places:

- `/slow…` takes 50 ms, so that requests are under way when a server is told to stop;
- `/refused…` answers 413 before it reads the body, where the server lets it;
- anything else answers with the method, the target and the length of the body.

A request with a `call` in its query is written down, one a line, in the file that `CALLS` names.
"""
