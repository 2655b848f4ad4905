"""Web process root."""
