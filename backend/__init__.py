"""The management backend; one room per noun, the same file names in each room."""
