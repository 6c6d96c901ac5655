"""What user code may touch."""
