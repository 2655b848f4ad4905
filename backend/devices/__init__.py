"""Thin clients: machines that are known here, the one-time codes they enroll with, and who may sign in at them."""
