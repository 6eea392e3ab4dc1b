"""Parse and write protocol bytes; no sockets here.

Begin with `http1.py`: requests as they go out, responses as they come in. `http2.py` reads the few frames of an
HTTP/2 connection that the pool needs to know about, and holds back a GOAWAY until every stream that it promised to
answer has ended.

May not import any other part of the package.
"""
