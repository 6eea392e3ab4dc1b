#!/usr/bin/env bash
# groq 1.7.0: importing the SDK changes a class of httpx, for the whole process: `httpx.Timeout.__module__` is "groq".
#
# The SDK gives everything that it exports its own module name, and it exports httpx's Timeout. From then on any
# message, log or documentation tool that names the class says groq.Timeout, also in programs where the timeout came
# from elsewhere; and where the name is used to find the class again, as in pickle, groq has to be installed: a
# `httpx.Timeout` pickled after the import refers to groq. openai 3.54.0, made by the same generator, leaves it alone.
#
# Seen: openai: httpx.Timeout; groq: groq.Timeout; pickle names groq: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q groq==1.7.0 openai==3.54.0 httpx==0.28.1 2> /dev/null

cat > "$folder/show.py" << 'PYTHON'
import importlib
import pickle

import httpx

seen = []
for name in ("openai", "groq"):
    importlib.import_module(name)
    seen.append(f"{name}: {httpx.Timeout.__module__}.{httpx.Timeout.__name__}")
seen.append(f"pickle names groq: {b'groq' in pickle.dumps(httpx.Timeout(5))}")
print("; ".join(seen))
PYTHON

found=$("$folder/venv/bin/python" "$folder/show.py")
echo "$found"
[ "$found" = "openai: httpx.Timeout; groq: groq.Timeout; pickle names groq: True" ]
