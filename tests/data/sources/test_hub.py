"""Sets of Hugging Face's datasets: as its own library saves them, or in the shape of that library."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from jaxprompt.data.sources import open_source, read_rows
from jaxprompt.errors import InputError

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


def test_a_saved_set_is_read_by_number(tmp_path):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    one = datasets.Dataset.from_list(ROWS, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(str(tmp_path / "all"))
    source = open_source(f"hf:{tmp_path}/all:train")
    assert list(source) == ROWS == read_rows(f"hf:{tmp_path}/one:train")
    assert source.label_names == {"label": ("bad", "good")}
    assert read_rows(f"hf:{tmp_path}/all:test") == ROWS[1:]
    assert len(source.fingerprint) == 12
    with pytest.raises(InputError, match=r"no split 'tset' .did you mean 'test'"):
        open_source(f"hf:{tmp_path}/all:tset")
    with pytest.raises(InputError, match="cannot be loaded"):
        open_source(f"hf:{tmp_path}/none:train")


class FakeSet(list):
    features: ClassVar = {"text": SimpleNamespace(), "label": SimpleNamespace(names=["bad", "good"])}
    cache_files = ()
    _fingerprint = "abc"


@pytest.fixture
def hub(monkeypatch):
    asked = []

    def load_dataset(name, config):
        asked.append((name, config))
        if name == "none":
            raise ConnectionError("no\nnetwork")
        return {"train": FakeSet(ROWS), "empty": FakeSet()}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, Dataset=FakeSet))
    return asked


def test_a_reference_names_repository_config_and_split(hub):
    assert read_rows("hf:stanfordnlp/sst2:train") == ROWS
    source = open_source("hf:nyu-mll/glue:sst2:train")
    assert source.label_names == {"label": ("bad", "good")} and len(source.fingerprint) == 12
    assert hub == [("stanfordnlp/sst2", None), ("nyu-mll/glue", "sst2")]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("hf:sst2", "hf:sst2: expected hf:REPOSITORY:SPLIT"),
        ("hf:sst2:tran", "hf:sst2:tran: no split 'tran' (did you mean 'train'?)"),
        ("hf:sst2:empty", "hf:sst2:empty: no rows"),
        ("hf:none:train", "hf:none:train: cannot be loaded: ConnectionError: no network"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(hub, reference, message):
    with pytest.raises(InputError) as error:
        open_source(reference)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"needs datasets \(pip install 'jaxprompt\[hf\]'\)"):
        open_source("hf:sst2:train")
