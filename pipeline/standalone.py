"""The stand-alone pipeline, LHC-Net beside ResNet34v2 through stages 1-3: the same flow as `standalone/dvc.yaml`."""

from typing import Any

from kfp import dsl

from components.compare_standalone import compare_standalone
from components.prepare import prepare
from components.train import train
from components.train_standalone import train_standalone
from lhcnet.code_version import execution_name
from lhcnet.config import Config
from lhcnet.steps import task_settings
from pipeline.cluster import Cluster, configure_task


def build_standalone(config: Config, cluster: Cluster, execution: str = "") -> Any:
    """Build the stand-alone pipeline of a configuration. Both networks are trained with every data seed.

    Args and result are those of `pipeline.graph.build`.
    """
    execution = execution or execution_name(config)
    wants_gpu = config.compute.device == "cuda"
    stages = [stage.to_dict() for stage in config.standalone_stages]
    with_lhc = config.variant(config.standalone.variant).to_dict()
    seeded_networks = [
        {"seed": seed, "variant": variant} for seed in config.standalone.seeds for variant in ({}, with_lhc)
    ]

    def on_cpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return configure_task(task, cluster, execution)

    def on_gpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return configure_task(task, cluster, execution, gpu=wants_gpu)

    @dsl.pipeline(name="lhcnet-standalone", description="LHC-Net beside ResNet34v2 through stages 1-3 on FER2013")
    def standalone(
        source: str = config.data.source,
        source_version: str = "",
        data: dict = config.data.to_dict(),
        network: dict = config.network.to_dict(),
        context: dict = task_settings(config),
        stage1: dict = stages[0],
        stage2: dict = stages[1],
        stage3: dict = stages[2],
        networks: list[dict] = seeded_networks,
        evaluation: dict = config.evaluation.to_dict(),
    ):
        """LHC-Net beside ResNet34v2 through stages 1-3 on FER2013.

        Args:
            source: URI of FER2013.
            source_version: Version that it must have, such as sha256:...; empty: not checked.
            data: Section `data` of params.yaml.
            network: Section `network`: size of ResNet34v2 and its initial weights.
            context: Sections `compute` (device, precision, threads) and `checkpoints`.
            stage1: Training of stage 1 (Table 3), with the patience of the stand-alone pipeline.
            stage2: Training of stage 2 (Table 4), likewise.
            stage3: Training of stage 3 (Table 5), likewise.
            networks: Networks to train, each with its data seed and modules (none: ResNet34v2).
            evaluation: Section `evaluation`: batch size.
        """
        prepared = on_cpu(prepare(source=source, source_version=source_version, data=data))
        trainval = prepared.outputs["trainval"]

        with dsl.ParallelFor(networks, name="networks", parallelism=cluster.parallelism) as item:
            settings = {"trainval": trainval, "seed": item.seed, "context": context}
            first = on_gpu(train_standalone(network=network, variant=item.variant, stage=stage1, **settings)).outputs[
                "model"
            ]
            second = on_gpu(train(start=first, stage_number=2, stage=stage2, **settings)).outputs["model"]
            third = on_gpu(train(start=second, stage_number=3, stage=stage3, **settings)).outputs["model"]

        on_gpu(
            compare_standalone(
                stage1=dsl.Collected(first),
                stage2=dsl.Collected(second),
                stage3=dsl.Collected(third),
                trainval=trainval,
                test=prepared.outputs["test"],
                evaluation=evaluation,
                context=context,
            )
        )

    return standalone
