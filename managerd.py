"""Manager process root."""
