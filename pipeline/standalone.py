"""The stand-alone pipeline, LHC-Net beside ResNet34v2 through stages 1-3: the same flow as `standalone/dvc.yaml`."""

from typing import Any

from kfp import dsl

from components.compare_standalone import compare_standalone
from components.finish import finish
from components.prepare import prepare
from components.start_weights import start_weights
from components.train import train
from components.train_standalone import train_standalone
from lhcnet.code_version import execution_name, step_digest
from lhcnet.config import Config
from lhcnet.steps import task_settings
from pipeline.cluster import Cluster, configure_task, pipeline_config

DESCRIPTION = """LHC-Net beside ResNet34v2 on FER2013: both networks with every data seed through stages 1-3, and \
their difference on the test split after each stage."""


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

    def on_cpu(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return configure_task(task.set_display_name(name), cluster, execution)

    def on_gpu(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return configure_task(task.set_display_name(name), cluster, execution, gpu=wants_gpu)

    @dsl.pipeline(
        name="lhcnet-standalone",
        display_name="LHC-Net, stand-alone",
        description=DESCRIPTION,
        pipeline_config=pipeline_config(cluster),
    )
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
            source: Where FER2013 is.
            source_version: Version that it must have; empty is not checked.
            data: Section `data` of params.yaml.
            network: Section `network`: size of ResNet34v2 and its initial weights.
            context: Sections `compute` (device, precision, threads) and `checkpoints`.
            stage1: Training of stage 1 (Table 3), with the patience of the stand-alone pipeline.
            stage2: Training of stage 2 (Table 4), likewise.
            stage3: Training of stage 3 (Table 5), likewise.
            networks: Networks to train, each with its data seed and modules (none: ResNet34v2).
            evaluation: Section `evaluation`: batch size.
        """
        closing = on_cpu(finish(), "Close the record").set_caching_options(False)
        with dsl.ExitHandler(closing, name="Experiment"):
            prepared = on_cpu(
                prepare(source=source, source_version=source_version, data=data, code=step_digest("prepare")),
                "Prepare FER2013",
            )
            weights = on_cpu(start_weights(network=network, code=step_digest("start-weights")), "Start weights")
            trainval = prepared.outputs["trainval"]

            with dsl.ParallelFor(networks, parallelism=cluster.budget) as item:
                common = {"trainval": trainval, "seed": item.seed, "context": context, "code": step_digest("train")}
                new = {"network": network, "start_weights": weights.output, "variant": item.variant}
                first = on_gpu(train_standalone(stage=stage1, **new, **common), "Stage 1").outputs["model"]
                second = on_gpu(train(start=first, stage_number=2, stage=stage2, **common), "Stage 2").outputs["model"]
                third = on_gpu(train(start=second, stage_number=3, stage=stage3, **common), "Stage 3").outputs["model"]

            comparing = compare_standalone(
                stage1=dsl.Collected(first),
                stage2=dsl.Collected(second),
                stage3=dsl.Collected(third),
                trainval=trainval,
                test=prepared.outputs["test"],
                evaluation=evaluation,
                context=context,
                code=step_digest("compare-standalone"),
            )
            # never from the cache: it ends the record of the execution
            on_gpu(comparing, "Compare the networks").set_caching_options(False)

    return standalone
