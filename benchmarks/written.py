"""Evaluation by generation against generation alone: the same inputs, the same prompt, in turns.

    python benchmarks/written.py --data-root FOLDER [--inputs 40] [--rounds 3]

SmolLM2-135M writes for E2E's test inputs under the fixed prompt of configs/smollm2/e2e.yaml. `evaluate` has BLEU, chrF and ROUGE
to compute beside the texts, and the likelihood of the references, which is timed apart. Writes results/written.md.
"""

import argparse
import statistics
import time
from pathlib import Path

import common
import jax
import jax.numpy as jnp
from evidence import configured, without_prompt

from jaxprompt.experiment.build import build, configured_backbone
from jaxprompt.experiment.figures import figures_of
from jaxprompt.experiment.rows import validation_rows
from jaxprompt.experiment.writing import Inputs, write_for
from jaxprompt.inference.generate import generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--inputs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config = configured("smollm2/e2e", args.data_root, Path("runs"))
    config = without_prompt(config, config.method.init.text)
    backbones = {
        name: configured_backbone(config.model_copy(update={"unroll": unrolled}))
        for name, unrolled in (("layers one by one", True), ("a loop over the layers", False))
    }
    experiments = {name: build(config, backbone) for name, backbone in backbones.items()}
    experiment = experiments["layers one by one"]
    inputs = Inputs.of(experiment, validation_rows(config)).first(args.inputs)
    rows = [validation_rows(config)[number - 1] for number in inputs.numbers]
    prompt = experiment.prompt({})
    conditioning = jax.tree.map(jnp.asarray, prompt.conditioning)
    texts = figures_of(config, experiment.objective).texts

    def alone():
        options = config.evaluation
        return generate(
            experiment.backbone, rows, prompt, max_new_tokens=options.max_new_tokens, batch_size=options.batch_size
        )

    def evaluated(experiment):
        written = write_for(experiment, conditioning, inputs)
        for figure in texts:
            figure(written, inputs.references)
        return written

    ways = {"`generate`": alone}
    ways |= {f"evaluation, {name}": lambda one=one: evaluated(one) for name, one in experiments.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written = {}
    for number in range(args.rounds + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            written[name] = [text.strip() for text in way()]
            if number:  # the first compiles
                seconds[name].append(time.perf_counter() - begun)
    assert len(set(map(tuple, written.values()))) == 1, "they wrote different texts"
    tokens = sum(len(experiment.backbone.tokenizer.encode(text)) for text in written["`generate`"])
    first = statistics.median(seconds["`generate`"])
    lines = [f"{len(rows)} inputs, {tokens} tokens written; medians of {args.rounds}, in turns.", ""]
    lines += ["| | seconds | tokens/s | of `generate`'s |", "| --- | --- | --- | --- |"]
    for name, taken in seconds.items():
        median = statistics.median(taken)
        lines.append(f"| {name} | {median:.1f} | {tokens / median:.0f} | {first / median:.2f} |")
    common.put_measured(common.RESULTS / "written.md", "\n".join(lines))
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
