"""Support for all tests: a scripted network, real servers, and one interface to sync, asyncio and trio."""
