"""Packages under names that user code imports; `dataplane/loader.py` serves them."""
