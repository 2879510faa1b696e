import pytest

from jaxprompt.errors import InputError
from jaxprompt.machine.packages import in_package


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "a_package" / "data"
    folder.mkdir(parents=True)
    (folder / "x.csv").write_text("a")
    (folder / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "a_module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "a_package"


def test_a_file_or_folder_is_found(package):
    assert in_package("package:a_package/data/x.csv") == package / "data" / "x.csv"
    assert in_package("package:a_package/data") == package / "data"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("package:a_package/data/y.csv", r"holds no 'data/y\.csv' \(did you mean 'x\.csv'\?\)$"),
        ("package:a_package/dta/x.csv", r"\(did you mean 'data'\?\)$"),
        ("package:a_package/data/x.csv/y", r"holds no 'data/x\.csv/y' \(check the path\)$"),
        ("package:a_package/../secret", r"holds no"),
        ("package:a_package//etc/passwd", r"holds no"),
        ("package:a_package/data/loop.csv", r"holds no 'data/loop\.csv' \(check the path\)$"),
        ("package:a_package/a\0b", r"holds no"),
        ("package:a_package/" + "x" * 300, r"holds no"),
        ("package:a_module/x.csv", r"'a_module' is a module and holds no files \(name a package\)$"),
        ("package:__main__/x.csv", r"'__main__'"),
        ("package:no_such/x.csv", r"pip install --no-deps no-such$"),
        ("package:", r"top-level name \(correct it\)$"),
        ("package:a\0b/c", r"top-level name"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(package, text, says):
    with pytest.raises(InputError, match=says) as error:
        in_package(text)
    assert str(error.value).isprintable()
