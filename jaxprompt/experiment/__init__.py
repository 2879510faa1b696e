"""From a config to the parts and the data of a run."""
