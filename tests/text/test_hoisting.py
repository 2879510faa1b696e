import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprompt.text.hoisting import drop_prefix, hoist_length, split_constant

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEMPLATES = [
    "{soft:3} Review: {text} Sentiment: {target}",
    "Classify: {soft:2} the film{text}{target}",
    "{soft:2}{target}",
    "{text}{soft:2} {target}",
    "{bos}{soft:4}Text:{text} {target}",
]


@quick
@given(st.sampled_from(TEMPLATES), st.lists(st.text(max_size=12), min_size=1, max_size=4), st.sampled_from([0, 1]))
def test_hoisting_changes_no_id(llama, gpt2, make_encoder, template, texts, which):
    tokenizer = (llama, gpt2)[which] if "{bos}" not in template else llama
    encoder = make_encoder(template, tokenizer)
    if template.startswith("{text}"):
        texts = [f"a{text}" for text in texts]
    examples = [encoder.encode({"text": text}, "positive") for text in texts]
    length = hoist_length(encoder, examples)
    head = encoder.constant_head[:length]
    for example in examples:
        dropped = drop_prefix(example, length)
        assert np.concatenate([head, dropped.ids]).tolist() == example.ids.tolist()
        assert dropped.positions.tolist() == list(range(length, len(example.ids)))
        # The token that each target is predicted from is still in the row.
        assert dropped.target_at.min() >= 0
        assert dropped.ids[dropped.target_at].tolist() == example.ids[example.target_at].tolist()


def test_all_that_is_constant_is_hoisted(llama, make_encoder):
    encoder = make_encoder("{soft:3}Review: {text} Sentiment: {target}", llama)
    examples = [encoder.encode({"text": text}, "good") for text in ("one", "two", "(three")]
    constant = 3 + len(llama("Review:")["input_ids"])
    assert hoist_length(encoder, examples) == constant
    # One example alone shares no more than the template.
    assert constant <= hoist_length(encoder, examples[:1]) <= constant + 1


def test_a_text_merging_with_the_head_shortens_it(gpt2, make_encoder):
    encoder = make_encoder("{soft:2}the posi{text}{target}", gpt2)
    apart, merged = encoder.encode({"text": "!"}, "x"), encoder.encode({"text": "tive"}, "x")
    assert hoist_length(encoder, [apart, merged]) < hoist_length(encoder, [apart]) == len(encoder.constant_head)


def test_the_scored_and_the_pooled_token_stay_in_the_row(llama, make_encoder):
    encoder = make_encoder("{soft:4}{target}", llama)
    assert hoist_length(encoder, [encoder.encode({}, "a")]) == 4
    for pool in ("last", "first", "mean"):
        encoder = make_encoder("{soft:4}the end", llama, pool=pool)
        example = encoder.encode({})
        length = hoist_length(encoder, [example])
        # A mean is over all that is not soft.
        assert length == (len(example.ids) - 1 if pool == "last" else 4)
        assert drop_prefix(example, length).pool_at == 0


def test_branches_survive(llama, make_encoder):
    words = (("terrible",), ("great",))
    encoder = make_encoder("{soft:4}{text} {target}", llama, objective="verbalizer", words=words)
    example = encoder.encode({"text": "it was"})
    dropped = drop_prefix(example, hoist_length(encoder, [example]))
    assert dropped.branches.tolist() == example.branches.tolist()[-len(dropped.ids) :]
    assert dropped.ids[dropped.target_at].tolist() == example.ids[example.target_at].tolist()


def test_nothing_is_hoisted_from_a_masked_model(bert, make_encoder):
    encoder = make_encoder("{soft:4}Text: {text}", bert, causal=False)
    assert hoist_length(encoder, [encoder.encode({"text": "a"})]) == 0


def test_contexts_share_as_examples_do(llama, make_encoder):
    encoder = make_encoder("{soft:3}Review: {text} {target}", llama)
    rows = [{"text": "one"}, {"text": "two"}]
    contexts = [encoder.context(row).ids for row in rows]
    assert encoder.shared_head(contexts) == hoist_length(encoder, [encoder.encode(row, "x") for row in rows])


def test_the_part_before_the_first_soft_token_needs_no_gradient():
    hard, rest = split_constant([1, 5, 100, 3, 101], 100)
    assert (hard.tolist(), rest.tolist()) == ([1, 5], [100, 3, 101])
    assert [part.tolist() for part in split_constant([1, 5], 100)] == [[1, 5], []]
    assert [part.tolist() for part in split_constant([], 100)] == [[], []]
