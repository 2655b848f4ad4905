"""Where the throw-away PostgreSQL was; it is in sim/postgres.py."""

from sim.postgres import *  # noqa: F403
from sim.postgres import BIN, Cluster  # noqa: F401
