"""Who takes part in a storm: names that place, people and recorder share."""

PASSWORD = "correct horse battery staple"


def person(number: int) -> str:
    """The name of the n-th person."""
    return f"storm{number:04d}"
