"""Foreign protocols: one file or folder per convention; siblings do not know each other."""
