"""The commands: harpcaller and harpcallerd."""
