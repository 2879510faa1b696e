import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprompt.errors import InputError
from jaxprompt.text.templates import Field, Hard, Mask, Soft, Special, Target, Template, check_fields, parse_template

KEYWORDS = {"soft", "mask", "target", "bos", "eos", "cls", "sep"}


def render(pieces) -> str:
    """Writes pieces as template text, independently of the parser."""

    def one(piece):
        match piece:
            case Hard(text):
                return text.replace("{", "{{").replace("}", "}}")
            case Soft(length):
                return f"{{soft:{length}}}"
            case Field(name) | Special(name):
                return f"{{{name}}}"
            case Mask():
                return "{mask}"
            case Target():
                return "{target}"

    return "".join(map(one, pieces))


names = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name.strip() and name not in KEYWORDS and not name.startswith("soft:")
)
hard = st.builds(Hard, st.text(min_size=1, max_size=8))
anything = st.one_of(
    hard,
    st.builds(Soft, st.integers(1, 200)),
    st.builds(Field, names),
    st.sampled_from([Special("bos"), Special("eos"), Special("cls"), Special("sep")]),
)


@st.composite
def piece_lists(draw):
    pieces = draw(st.lists(anything, max_size=8))
    scored = draw(st.sampled_from([None, Mask(), Target()]))
    if scored:
        pieces.insert(draw(st.integers(0, len(pieces))), scored)
    # The parser never leaves two hard texts side by side.
    return tuple(p for i, p in enumerate(pieces) if not (i and isinstance(p, Hard) and isinstance(pieces[i - 1], Hard)))


@given(piece_lists())
def test_rendered_pieces_parse_to_themselves(pieces):
    text = render(pieces)
    assert parse_template(text) == Template(text, pieces)


def test_properties():
    template = parse_template("{soft:20} Review: {text}{soft:3} {title} {text} {{x}} Sentiment: {target}")
    assert template.soft_length == 23
    assert template.fields == ("text", "title")
    assert template.has_target
    assert not template.has_mask
    assert parse_template("{mask}").has_mask
    assert Hard(" {x} Sentiment: ") in template.pieces


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a { b", "unbalanced '{' at character 2"),
        ("a } b", "unbalanced '}' at character 2"),
        ("{text", "unbalanced '{' at character 0"),
        ("{te{xt}", "unbalanced '{' at character 0"),
        ("{{text}", "unbalanced '}' at character 6"),
        ("{soft}", "{soft} in template"),
        ("{soft:x}", "{soft:x} in template"),
        ("{soft:0}", "from 1 up"),
        ("{soft:-1}", "from 1 up"),
        ("{soft:٣}", "from 1 up"),
        ("{}", "empty placeholder"),
        ("{ }", "empty placeholder"),
        ("{target}{target}", "2 {target}"),
        ("{mask} {mask}", "2 {mask}"),
        ("{mask} {target}", "both {target} and {mask}"),
    ],
)
def test_bad_templates_say_why_in_one_line(text, message):
    with pytest.raises(InputError) as error:
        parse_template(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_field_suggests_the_nearest():
    template = parse_template("{lenght} {text}")
    with pytest.raises(InputError, match=r"^unknown field 'lenght' in template \(did you mean 'length'\?\)$"):
        check_fields(template, ["length", "text"])
    check_fields(template, {"lenght": 1, "text": 2, "more": 3})
