"""What should exist: pure functions from a resource and facts to desired state."""
