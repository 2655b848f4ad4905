"""Where the builders were; they are in sim/make.py."""

from sim.make import *  # noqa: F403
