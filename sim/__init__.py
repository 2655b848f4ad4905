"""A data centre that is not there: for tests, for demos, for 200 hosts on a laptop."""
