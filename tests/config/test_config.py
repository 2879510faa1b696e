"""The experiment's config: what it accepts, and how it refuses."""

import pytest
import yaml

from jaxprompt import config as configs
from jaxprompt.config import load_config
from jaxprompt.errors import InputError

BASE = {"model": "m", "template": "{soft:2} {text}"}


def refused(source, overrides=()):
    with pytest.raises(InputError) as error:
        load_config(source, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.stpes=4"], ["'train.stpes'", "'train.steps'"]),
        (["batch_size=4"], ["'batch_size'", "'train.batch_size'"]),
        (["method.init.typ=text"], ["'method.init.typ'", "'method.init.type'"]),
        (["train.steps=many"], ["'train.steps'", "'many'", "integer"]),
        (["train.batch_size=0"], ["'train.batch_size'", "0", "greater than 0"]),
        (["method.name=sotf"], ["'method.name'", "'sotf'", "'soft'"]),
        (["objective.type=classifier", "objective.pool=meen"], ["'objective.pool'", "'mean'"]),
        (["objective.type=verbaliser"], ["'objective.type'", "'verbaliser'", "'verbalizer'"]),
        (["objective.pool=mean"], ["'objective.pool'", "objective.type classifier", "not with generation"]),
        (["method.length=4"], ["'method.length'", "set method.name=prefix"]),
        (["method.init.type=text"], ["'method.init'", "needs text"]),
        (["train=3"], ["'train'", "train.steps"]),
        (["steps"], ["'steps'", "key=value"]),
        (["train.steps=[1"], ["train.steps=[1", "YAML"]),
    ],
)
def test_bad_keys_and_values_are_named_with_the_nearest_valid_one(overrides, parts):
    message = refused(BASE, overrides)
    assert all(part in message for part in parts), message


def test_missing_key_is_named():
    assert "'model'" in refused({"template": "x"})


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "model: [\n", "template: {soft:16} {text}\n"])
def test_malformed_files_are_refused(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert str(path) in refused(path)


def test_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "sst2.yaml").write_text("model: m\n")
    assert "'sst2.yaml'" in refused(tmp_path / "sst.yaml")


def test_overrides_keep_texts_as_typed_and_parse_the_rest():
    config = load_config(BASE, ["template={soft:3} {text}: {target}", "train.steps=7", "optimizer.learning_rate=1e-3"])
    assert config.template == "{soft:3} {text}: {target}"
    assert config.train.steps == 7
    assert config.optimizer.learning_rate == 1e-3
    assert load_config(BASE, ["data.train=1.jsonl"]).data.train == "1.jsonl"
    assert load_config(BASE, ["data.train=null"]).data.train is None


def test_python_overrides_merge_into_sections():
    config = load_config({**BASE, "train": {"steps": 5, "batch_size": 4}}, {"train": {"steps": 6}, "seed": 3})
    assert (config.train.steps, config.train.batch_size, config.seed) == (6, 4, 3)


def test_label_names_that_yaml_reads_as_numbers_stay_text():
    tree = yaml.safe_load("{0: [bad, 1], 1: true}")
    config = load_config({**BASE, "objective": {"type": "verbalizer", "labels": tree}})
    assert config.objective.labels == {"0": ["bad", "1"], "1": "true"}


def test_a_dumped_config_loads_to_itself(tmp_path):
    config = load_config(BASE, ["method.init.type=text", "method.init.text=a: {b}", "run_dir=x"])
    path = tmp_path / "config.yaml"
    path.write_text(configs.dump(config.model_dump(mode="json")))
    assert load_config(path) == config


def test_help_shows_every_key_with_default_and_meaning():
    text = configs.help_text()
    for name, key in configs.keys().items():
        assert f"  {name} (" in text
        assert all(field.description in text for field in key.fields.values())


def test_an_overriding_choice_drops_the_options_of_the_one_before():
    prefix = {**BASE, "method": {"name": "prefix", "length": 3, "init": {"type": "zero"}}}
    for source in (prefix, load_config(prefix)):
        assert load_config(source, ["method.name=none"]).method.model_dump() == {"name": "none"}
        # What both have stays.
        assert load_config(source, {"method": {"name": "soft"}}).method.init.type == "zero"
    assert "set method.name=prefix" in refused(prefix, ["method.name=none", "method.length=3"])


def test_each_optimizer_has_defaults_of_its_own_and_the_published_recipe_clips_nothing():
    adamw, adafactor = (load_config(BASE, [f"optimizer.name={name}"]).optimizer for name in ("adamw", "adafactor"))
    assert (adamw.learning_rate, adamw.clip_norm, adamw.weight_decay) == (0.01, 1.0, 0.0)
    assert (adafactor.learning_rate, adafactor.clip_norm, adafactor.weight_decay) == (0.3, None, 1e-5)


def test_a_group_has_a_rate_of_its_own():
    config = load_config(BASE, ["optimizer.rates.head=0.5", "optimizer.learning_rate=0.1"])
    assert config.optimizer.rates == {"head": 0.5}


def test_one_seed_sets_all_and_each_can_be_set_apart():
    config = load_config(BASE, ["seed=3", "seeds.data=4"])
    assert [config.seed_of(what) for what in ("start", "data", "sampling")] == [3, 4, 3]
