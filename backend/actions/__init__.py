"""Custom actions: hooks of the hosts' operators, declared by administrators."""
