"""The harpcallerd command."""
