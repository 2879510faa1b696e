"""Tests of a GPU are run where they are asked for, by `-m gpu`, and nowhere else."""


def pytest_configure(config):
    config.addinivalue_line("markers", "xdist_group(name): known without pytest-xdist too")


def pytest_collection_modifyitems(config, items):
    if "gpu" in (config.option.markexpr or ""):
        return
    unasked = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=unasked)
    items[:] = [item for item in items if item not in unasked]
