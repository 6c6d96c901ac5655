"""Outside systems: one file each, implementing the ports they can."""
