"""Figures of written texts against references: matches, overlaps, numbers."""

import collections
import functools
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from jaxprompt.metrics.base import References, TextMetric, Texts
from jaxprompt.metrics.regression import pearson, spearman

_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_PUNCTUATION = string.punctuation + "、。，．！？；：（）《》【】「」『』…—～·“”"
_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")


def normal_tokens(text: str) -> list[str]:
    """A text's words as SQuAD's evaluate-v2.0.py has them: lower case, without punctuation and English articles.

    A Chinese character is a word by itself, and Chinese punctuation goes too, as in CMRC 2018's script.
    """
    text = "".join(char for char in text.lower() if char not in _PUNCTUATION)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return _CHINESE.sub(r" \g<0> ", text).split()


def token_f1(text: str, reference: str) -> float:
    """The harmonic mean of precision and recall of words; where either has none, whether both have none."""
    found, wanted = normal_tokens(text), normal_tokens(reference)
    if not found or not wanted:
        return float(found == wanted)
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    return 2 * same / (len(found) + len(wanted))


def _best(of: Callable[[str, str], float]) -> Callable[[str, Sequence[str]], float]:
    """Of several references the one that is nearest counts."""
    return lambda text, references: max(of(text, reference) for reference in references)


def _triples(text: str, reference: str) -> float:
    """F1 of two sets of triples, separated by semicolons or lines, without regard to case and spaces."""
    found, wanted = (
        {" ".join(part.lower().split()) for part in re.split(r"[;\n]", whole) if part.strip()}
        for whole in (text, reference)
    )
    return 2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 1.0


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text.rpartition("####")[2])
    return found[-1].replace(",", "") if found else None


def _same_number(text: str, reference: str) -> float:
    """Whether two texts end with the same number, behind #### where that is there, as GSM8K's answers do."""
    found, wanted = _last_number(text), _last_number(reference)
    return float(found is not None and wanted is not None and float(found) == float(wanted))


def _sacrebleu(kind: str) -> Callable[[Texts, References], float]:
    def of(texts: Texts, references: References) -> float:
        from sacrebleu.metrics import BLEU, CHRF

        # One list per place, gaps where an example has fewer.
        most = max(map(len, references))
        streams = [[refs[at] if at < len(refs) else None for refs in references] for at in range(most)]
        return {"bleu": BLEU, "chrf": CHRF}[kind]().corpus_score([text.strip() for text in texts], streams).score

    return of


@functools.cache
def _scorer(kind: str):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)


def _rouge(kind: str) -> Callable[[str, str], float]:
    return lambda text, reference: _scorer(kind).score(reference, text)[kind].fmeasure


def _as_number(text: str) -> float:
    """T5 takes -1 for what is no number (t5/data/postprocessors.py, string_to_float)."""
    try:
        return float(text.strip())
    except ValueError:
        return -1.0


def _correlated(of: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Texts, References], float]:
    return lambda texts, references: of(
        np.array([_as_number(text) for text in texts]), np.array([_as_number(refs[0]) for refs in references])
    )


_SACREBLEU, _ROUGE = ("sacrebleu", "sacrebleu"), ("rouge-score", "rouge_score")
TEXT_METRICS = (
    TextMetric("exact_match", _best(lambda text, reference: float(text.strip() == reference.strip()))),
    TextMetric("squad_exact_match", _best(lambda text, ref: float(normal_tokens(text) == normal_tokens(ref)))),
    TextMetric("squad_f1", _best(token_f1)),
    TextMetric("bleu", _sacrebleu("bleu"), each=False, package=_SACREBLEU),
    TextMetric("chrf", _sacrebleu("chrf"), each=False, package=_SACREBLEU),
    *(TextMetric(kind, _best(_rouge(kind)), package=_ROUGE) for kind in ("rouge1", "rouge2", "rougeL")),
    TextMetric("final_number", _best(_same_number)),
    TextMetric("triples_f1", _best(_triples)),
    TextMetric("pearson", _correlated(pearson), each=False),
    TextMetric("spearman", _correlated(spearman), each=False),
)
