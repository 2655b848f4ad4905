"""Where the manager on simulated hosts was; it is in sim/installation.py."""

from sim.installation import Installation as World  # noqa: F401
