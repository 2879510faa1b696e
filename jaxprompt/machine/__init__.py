"""What a run has under it: devices, the host, installed packages."""
