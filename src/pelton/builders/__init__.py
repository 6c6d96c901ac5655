"""From source to a bundle and its environment."""
