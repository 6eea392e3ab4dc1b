"""The fixtures of the kit, for all tests below this folder."""

pytest_plugins = ["httpx_agent.testing.fixtures"]
