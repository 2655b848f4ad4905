"""The console's query language and its fields."""
