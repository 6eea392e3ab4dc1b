#!/usr/bin/env bash
# httpx 0.28.1: a client certificate given as cert= is dropped, without a word, where verify= is the path of a file.
#
# `create_ssl_context` returns early for a path, before it looks at cert. With verify=True the same cert= is loaded, and
# so is a file that holds no certificate: that raises. With a path nothing is read, so that nothing raises either, and
# the server is never shown a certificate. Both arguments are deprecated there, and both still work alone.
#
# Seen: verify=True: SSLError; verify=path: no error
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q httpx==0.28.1 certifi==2026.6.17 2> /dev/null

cat > "$folder/show.py" << 'PYTHON'
import ssl
import sys
import warnings

import certifi
import httpx

warnings.simplefilter("ignore", DeprecationWarning)
no_certificate = sys.argv[1]
seen = []
for name, verify in (("True", True), ("path", certifi.where())):
    try:
        httpx.create_ssl_context(verify=verify, cert=no_certificate, trust_env=False)
        seen.append(f"verify={name}: no error")
    except ssl.SSLError as error:
        seen.append(f"verify={name}: {type(error).__name__}")
print("; ".join(seen))
PYTHON

echo "this is no certificate" > "$folder/client.pem"
found=$("$folder/venv/bin/python" "$folder/show.py" "$folder/client.pem")
echo "$found"
[ "$found" = "verify=True: SSLError; verify=path: no error" ]
