"""Kinds of Kubernetes itself that the API serves: one file per group, `table.py` lists their rows."""
