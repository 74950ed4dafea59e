"""What runs depend on in this process: cores, locks and forks, torch's defaults, memory for compiled code."""
