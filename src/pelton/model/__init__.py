"""What things are: frozen dataclasses in the platform's words; no I/O, no clock."""
