"""What the tests of commands share."""

from network_processes import place

__all__ = ["place"]
