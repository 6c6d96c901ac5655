"""Templates of texts that users write: in Go's language by a reader of our own, or in Jinja2; with bounds."""
