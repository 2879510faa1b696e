"""Prepared sets of tensorflow-datasets: a small one is prepared here."""

import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxprompt.config import load_config
from jaxprompt.data.sources import Reading, open_source, read_rows
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import make_objective

ROWS = [
    {"text": "好 😀", "label": 1, "answers": ["a", "b"], "more": {"n": 3, "x": 0.5}},
    {"text": "", "label": -1, "answers": [], "more": {"n": -4, "x": 2.0}},
    {"text": "b", "label": 0, "answers": ["c"], "more": {"n": 0, "x": 0.0}},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of the sets; `small_set` is in it."""
    import tensorflow_datasets as tfds

    class SmallSet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "text": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["bad", "good"]),
                "answers": tfds.features.Sequence(tfds.features.Text()),
                "more": {"n": np.int64, "x": np.float32},
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), description="Rows.")

        def _split_generators(self, manager):
            return {"train": self._generate_examples(), "validation": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(ROWS)

    root = tmp_path_factory.mktemp("sets")
    SmallSet(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def by_text(rows):
    return sorted(rows, key=lambda row: row["text"])


def test_a_prepared_set_is_read_by_number(prepared):
    source = open_source("tfds:small_set:train", Reading(dir=str(prepared)))
    assert by_text(source) == by_text(ROWS) and len(source) == 3
    assert source[-1] == source[2]
    with pytest.raises(IndexError):
        source[3]
    assert source.label_names == {"label": ("bad", "good")}
    copy = pickle.loads(pickle.dumps(source))
    assert list(copy) == list(source) and copy.fingerprint == source.fingerprint
    assert read_rows(f"tfds:{prepared}/small_set/1.0.0:train[:2]") == [source[0], source[1]]


def test_where_the_sets_are(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(read_rows("tfds:small_set:train")) == 3
    (prepared / "several" / "one").mkdir(parents=True)
    for reference, says in (
        ("tfds:small_set:trian", r"no split 'trian' \(did you mean 'train'\?\)$"),
        ("tfds:small_set", r"names no split \(add :SPLIT, one of train, validation\)$"),
        (
            "tfds:glue/sst2:train",
            r"not prepared in '.*' \(set data.dir to where it is, or data.download=true to fetch it\)$",
        ),
        ("tfds:several:train", r"'several' has several configs: add one \(choose from: one\)$"),
        ("tfds:/nowhere:train", r"'/nowhere' is no prepared set"),
        ("tfds:", "expected tfds:NAME"),
    ):
        with pytest.raises(InputError, match=says) as error:
            read_rows(reference)
        assert str(error.value).startswith(reference) and "\n" not in str(error.value)


def test_classes_have_the_names_of_the_set(prepared):
    """In the order of their numbers, so that labels may be numbers, and -1 is none."""
    config = {
        "model": "m",
        "template": "{text}{soft:1}{mask}",
        "objective": {"type": "verbalizer"},
        "data": {"train": "tfds:small_set:train", "dir": str(prepared)},
    }
    assert make_objective(load_config(config)).label_names == ("bad", "good")
    config["data"] |= {"rename": {"y": "label"}, "label": "y", "where": {"y": 1}}
    assert make_objective(load_config(config)).label_names == ("bad", "good")


def test_a_damaged_set_is_refused(prepared, tmp_path):
    folder = tmp_path / "1.0.0"
    shutil.copytree(prepared / "small_set" / "1.0.0", folder)
    (file,) = folder.glob("*train*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"^tfds:.*:train: not a readable set: .*\(prepare it again\)$"):
        read_rows(f"tfds:{folder}:train")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match=r"^tfds:.*:train: not a readable set: .*\(prepare it again\)$"):
        read_rows(f"tfds:{folder}:train")


def test_tensorflow_is_never_imported(prepared):
    code = (
        "import sys; from jaxprompt.data.sources import read_rows; "
        f"assert len(read_rows('tfds:{prepared}/small_set/1.0.0:train')) == 3; assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
