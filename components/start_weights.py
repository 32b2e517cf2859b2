from kfp import dsl

from components import component


@component
def start_weights(network: dict, code: str, weights: dsl.Output[dsl.Artifact]):
    """Find the start weights of stage 1, so that no training downloads them.

    Args:
        network: Section `network` of params.yaml; `weights` names them.
        code: Digest of the code that computes.
        weights: A copy of the weights, with their SHA-256, source and licence.
    """
    from pathlib import Path

    from lhcnet import config, steps

    steps.start_task(step="start-weights", code=code)
    record = steps.start_weights(Path(weights.path), network=config.parse(config.Network, network, "network"))
    weights.metadata.update(record.facts)
