"""What people see of a run, and what is kept of it."""
