"""The harpcaller command."""
