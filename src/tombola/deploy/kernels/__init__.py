"""What layers and regions can run in, on this machine's processor and on GPUs."""
