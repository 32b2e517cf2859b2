"""LHC-Net straight through stages 1-3 beside a ResNet34v2: the same flow as `standalone/dvc.yaml`."""

from typing import Any

from kfp import dsl

from components.compare_standalone import compare_standalone
from components.prepare import prepare
from components.train import train
from components.train_backbone import train_backbone
from lhcnet.code_version import execution_name
from lhcnet.config import Config
from pipeline.cluster import Cluster, place


def build_standalone(config: Config, cluster: Cluster, execution: str = "") -> Any:
    """The stand-alone pipeline of a configuration; every network is trained with every data seed."""
    execution = execution or execution_name(config)
    on_gpu = config.compute.device == "cuda"
    stages = [stage.to_dict() for stage in config.standalone_stages]
    with_lhc = config.variant(config.standalone.variant).to_dict()
    pairs = [{"seed": seed, "variant": variant} for seed in config.standalone.seeds for variant in ({}, with_lhc)]

    def on(task: dsl.PipelineTask, *, gpu: bool = False) -> dsl.PipelineTask:
        return place(task, cluster, execution, gpu=gpu and on_gpu)

    @dsl.pipeline(name="lhcnet-standalone", description="LHC-Net beside ResNet34v2 through stages 1-3 on FER2013")
    def standalone(
        source: str = config.data.source,
        data: dict = config.data.to_dict(),
        network: dict = config.network.to_dict(),
        compute: dict = config.compute.to_dict(),
        checkpoints: dict = config.checkpoints.to_dict(),
        stage1: dict = stages[0],
        stage2: dict = stages[1],
        stage3: dict = stages[2],
        runs: list[dict] = pairs,
        evaluation: dict = config.evaluation.to_dict(),
    ):
        raw = dsl.importer(artifact_uri=source, artifact_class=dsl.Dataset, reimport=False)
        faces = on(prepare(source=raw.output, data=data))
        trainval = faces.outputs["trainval"]

        with dsl.ParallelFor(runs, name="networks", parallelism=cluster.parallelism) as run:
            first = on(
                train_backbone(
                    trainval=trainval,
                    network=network,
                    stage=stage1,
                    compute=compute,
                    checkpoints=checkpoints,
                    seed=run.seed,
                    variant=run.variant,
                    standalone=True,
                ),
                gpu=True,
            ).outputs["model"]
            common = {"trainval": trainval, "compute": compute, "checkpoints": checkpoints, "seed": run.seed}
            second = on(train(start=first, number=2, stage=stage2, **common), gpu=True).outputs["model"]
            third = on(train(start=second, number=3, stage=stage3, **common), gpu=True).outputs["model"]

        on(
            compare_standalone(
                stage1=dsl.Collected(first),
                stage2=dsl.Collected(second),
                stage3=dsl.Collected(third),
                trainval=trainval,
                test=faces.outputs["test"],
                evaluation=evaluation,
                compute=compute,
            ),
            gpu=True,
        )

    return standalone
