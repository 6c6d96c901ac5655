"""Demonstrations that need a real server beside the platform, run by make and by tests."""
