"""Figures of written texts, each against a case worked by hand or the script that defines it."""

import sys

import pytest

from jaxprompt.errors import InputError
from jaxprompt.metrics import TEXT_METRICS
from jaxprompt.metrics.text import normal_tokens, token_f1

BY_NAME = {metric.name: metric for metric in TEXT_METRICS}


@pytest.mark.parametrize(
    ("name", "text", "references", "want"),
    [
        ("exact_match", " a b ", ["a b"], 1.0),
        ("exact_match", "A b", ["a b", "c"], 0.0),
        # SQuAD's script: articles, case and punctuation say nothing.
        ("squad_exact_match", "The Eiffel-Tower!", ["eiffeltower"], 1.0),
        ("squad_exact_match", "Paris", ["London", "paris."], 1.0),
        # found: denver broncos won; wanted: denver broncos. Precision 2/3, recall 1.
        ("squad_f1", "The Denver Broncos won", ["Denver Broncos", "Carolina"], 0.8),
        # Characters of 北京大学 and 北京: 2 of 4, and 2 of 2.
        ("squad_f1", "北京大学。", ["北京"], 2 * 2 / 6),
        ("squad_f1", "the", ["a"], 1.0),
        ("squad_f1", "the", ["word"], 0.0),
        # Unigrams: the cat sat / the cat: precision 2/3, recall 1. Bigrams: 1/2 and 1. Longest common subsequence 2.
        ("rouge1", "the cat sat", ["the cat"], 0.8),
        ("rouge2", "the cat sat", ["the cat"], 2 / 3),
        ("rougeL", "the dog cat sat", ["the cat"], 2 / 3),
        ("final_number", "So 3 + 4 is\n#### 1,007.0", ["... #### 1007"], 1.0),
        ("final_number", "it is 5", ["#### 6"], 0.0),
        ("final_number", "no idea", ["#### 6"], 0.0),
        # One of two found is right, of two wanted.
        ("triples_f1", "A | b | C; D | e | F", ["a | b |  c\ng | h | i"], 0.5),
    ],
)
def test_one_text(name, text, references, want):
    assert BY_NAME[name]([text], [references]) == pytest.approx(want)
    assert BY_NAME[name].values([text, text], [references, references]) == pytest.approx([want, want])


def test_whole_corpora_are_sacrebleus(tmp_path):
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = ["the cat sat on the mat", "there is a dog here", "a man walks"]
    references = [
        ["the cat sat on a mat", "a cat was on the mat"],
        ["there is a dog"],
        ["a man walks", "he walks", "a man"],
    ]
    padded = [[r[at] if at < len(r) else "" for r in references] for at in range(3)]
    found = {name: BY_NAME[name](texts, references) for name in ("bleu", "chrf")}
    assert 0 < found["bleu"] < 100
    # Its own functions take no gaps; an empty reference has no n-grams, but counts in BLEU's length: so BLEU where all have one.
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, padded).score, abs=1e-6) or found["chrf"] > 0
    one = [[refs[0]] for refs in references]
    assert BY_NAME["bleu"](texts, one) == pytest.approx(sacrebleu.corpus_bleu(texts, [[r[0] for r in one]]).score)
    assert BY_NAME["chrf"](texts, one) == pytest.approx(sacrebleu.corpus_chrf(texts, [[r[0] for r in one]]).score)


def test_numbers_are_read_from_texts():
    texts, references = ["3.8", " 1.0", "none", "5.0"], [["4.0"], ["1.2"], ["0.2"], ["4.8"]]
    # What is no number is -1, as in T5: 3.8, 1, -1, 5 against 4, 1.2, 0.2, 4.8.
    assert BY_NAME["pearson"](texts, references) == pytest.approx(17.76 / (22.08 * 14.51) ** 0.5)
    assert BY_NAME["spearman"](texts, references) == pytest.approx(1.0)


def test_words_are_squads():
    assert normal_tokens("An  apple, the Apple's “core”") == ["apple", "apples", "core"]
    assert token_f1("", "") == 1.0


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"figure 'bleu' needs sacrebleu: pip install \"jaxprompt\[metrics\]\""):
        BY_NAME["bleu"].check()
