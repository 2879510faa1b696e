"""Parameters that are learned, where they are not at their start."""

import jax


def away_from(start):
    """Of groups of parameters, others near by, so that what is learned matters.

    Products that all change by as much as prompts do would leave nothing but noise.
    """

    def moved(x, by):
        return x + by * jax.random.normal(jax.random.key(x.size), x.shape)

    return {
        group: jax.tree.map(lambda x, by=0.03 if group == "deltas" else 0.3: moved(x, by), part)
        for group, part in start.items()
    }
