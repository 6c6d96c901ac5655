"""Where desired state becomes real."""
