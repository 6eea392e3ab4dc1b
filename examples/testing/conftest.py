"""Load the fixtures of the kit for all tests in this folder and below."""

pytest_plugins = ["httpx_agent.testing.fixtures"]
