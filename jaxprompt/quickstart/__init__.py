"""The main jobs on data and models that come as packages: no files to find, no network."""

# Each is a module with `run(run_dir, reporter, overrides) -> summary`.
QUICKSTARTS = ("intents", "text")
