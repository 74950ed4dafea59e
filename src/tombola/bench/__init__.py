"""The engines of this machine, what they are asked to run, and one timer for all of them."""
