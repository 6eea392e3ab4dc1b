"""A socket agent for httpx."""
