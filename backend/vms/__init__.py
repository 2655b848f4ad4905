"""Virtual machines and templates."""
