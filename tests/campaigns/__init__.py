"""Attacks on the promises of the project, counted: ``python -m tests.campaigns --help``."""
