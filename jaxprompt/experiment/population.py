"""A population's parts: experiments that share a backbone, and the batches of their members."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprompt.backbone import Backbone
from jaxprompt.config import Config
from jaxprompt.data.loader import Loader
from jaxprompt.data.stacked import Chained, StackedLoader
from jaxprompt.errors import InputError
from jaxprompt.experiment.build import Experiment, build, soft_length
from jaxprompt.experiment.data import EvaluationData, TrainingData, make_loader
from jaxprompt.experiment.fingerprint import fingerprints_of
from jaxprompt.machine.background import Background
from jaxprompt.methods import make_method
from jaxprompt.reports.terminal import Reporter
from jaxprompt.text.hoisting import shared_length, split_constant


def experiments_of(
    configs: Sequence[Config], backbone: Backbone | None, reporter: Reporter, background: Background
) -> list[Experiment]:
    """The experiments of configs that one backbone serves; arguments as in `build`.

    Raises InputError for a prompt made of training rows that are not the same for all members.
    """
    first = build(configs[0], backbone, reporter, background=background)
    found = [first]
    for config in configs[1:]:
        method = make_method(config.method, soft_length(config), first.backbone)
        alike = config.template == configs[0].template and config.chat == configs[0].chat
        if hasattr(method, "with_context"):
            if not alike or config.seed_of("start") != configs[0].seed_of("start"):
                raise InputError(
                    f"population has members for which method {method.name} draws other examples: it may not have seed, "
                    "seeds.start or prompt_length"
                )
            method = method.with_context(first.method.context)
        if alike and method.positions == first.method.positions:
            found.append(dataclasses.replace(first, config=config, method=method))
        else:
            found.append(build(config, first.backbone, label_names=first.objective.label_names))
    return found


def load_together(experiments: Sequence[Experiment], keys: Sequence[int]) -> TrainingData:
    """The data of a population's members: one set of batches where all draw the same, else those of each, stacked.

    Args:
      keys: how many keys the learned prefix of each has; 0: there is none.

    Raises:
      InputError: what `TrainingData.load` raises, or an option that populations do not have.
    """
    if experiments[0].config.data.cache is not None:
        raise InputError("data.cache is not for populations: leave it out")
    kinds = [
        (experiment.config.seed_of("data"), experiment.encoder.template.text, count)
        for experiment, count in zip(experiments, keys, strict=True)
    ]
    distinct = list(dict.fromkeys(kinds))
    if len(distinct) == 1:
        return TrainingData.load(experiments[0])
    member = [distinct.index(kind) for kind in kinds]
    of_kind = [experiments[kinds.index(kind)] for kind in distinct]
    of_lengths = len({kind[1:] for kind in distinct}) > 1
    # Text behind keys of several lengths has several positions.
    parts = _loaded(of_kind, () if len(set(keys)) > 1 else None)

    first, vocab_size = parts[0], experiments[0].backbone.vocab_size
    leads = [first.hoisted for _ in parts]
    if any(part.hoisted != first.hoisted for part in parts):
        split = [split_constant(part.hoisted, vocab_size) for part in parts]
        if len({hard.tobytes() for hard, _ in split}) > 1 or not of_lengths:
            parts = _loaded(of_kind, first.hoisted[: shared_length([part.hoisted for part in parts])])
            first = parts[0]
        else:
            leads = [rest for _, rest in split]
            first = dataclasses.replace(first, hoisted=tuple(split[0][0].tolist()))
    lead = None
    if any(tuple(one) != tuple(leads[0]) for one in leads):
        lead = np.full((len(leads), max(map(len, leads))), -1, np.int32)
        for row, ids in zip(lead, leads, strict=True):
            row[: len(ids)] = ids
        lead = lead[member]
    here = {"leads": lead, "keys": np.asarray(keys, np.int32) if len(set(keys)) > 1 else None}

    train, validation = [part.train for part in parts], first.validation
    train = None if first.train is None else StackedLoader(_planned(experiments[0], train), tuple(member), **here)
    if validation is not None and of_lengths:
        loaders = _planned(experiments[0], [part.validation.loader for part in parts])
        validation = EvaluationData(StackedLoader(loaders, tuple(member), **here), validation.size)
    return dataclasses.replace(
        first,
        train=train,
        validation=validation,
        fingerprints=fingerprints_of([parts[at].fingerprints for at in member]),
        truncated={
            name: max(part.truncated.get(name, 0) for part in parts)
            for name in dict.fromkeys(name for part in parts for name in part.truncated)
        },
    )


def _loaded(experiments: Sequence[Experiment], most: tuple[int, ...] | None) -> list[TrainingData]:
    """The data of each, all of one form."""
    parts = [TrainingData.load(experiment, most) for experiment in experiments]
    apart = {_is_split(part) for part in parts}
    if len(apart) == 1:
        return parts
    configs = [_with_data(experiment.config, ahead=False) for experiment in experiments]
    changed = [dataclasses.replace(e, config=config) for e, config in zip(experiments, configs, strict=True)]
    return [TrainingData.load(experiment, most) for experiment in changed]


def _is_split(data: TrainingData) -> bool:
    loader = data.train if data.train is not None else data.validation.loader
    return isinstance(loader, Loader) and loader.examples[0].source is not None


def _with_data(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def _planned(experiment: Experiment, loaders: Sequence[Any]) -> tuple[Any, ...]:
    """The loaders, with rows of one shape, which is planned from the examples of all: some member fills it in any step."""
    if not all(isinstance(loader, Loader) for loader in loaders):
        plan = dataclasses.replace(loaders[0].plan, held=None)
        return tuple(dataclasses.replace(loader, plan=plan) for loader in loaders)
    examples = [example for loader in loaders for example in loader.examples]
    order = Chained(tuple(loader.order for loader in loaders), tuple(len(loader.examples) for loader in loaders))
    plan = make_loader(experiment, examples, order).plan
    # All rows, which come in the number of those of the member that has most.
    plan = dataclasses.replace(plan, rows=plan.rows[-1:], held=None)
    return tuple(dataclasses.replace(loader, plan=plan) for loader in loaders)
