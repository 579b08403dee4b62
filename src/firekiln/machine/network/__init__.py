"""What a machine is reached by: published ports."""
