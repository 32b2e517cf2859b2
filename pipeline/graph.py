"""The flow of the paper's experiment as a Kubeflow pipeline: the same flow as `dvc.yaml`."""

from typing import Any

from kfp import dsl

from components.analyse import analyse
from components.best_of_b import best_of_b
from components.compare import compare
from components.control import control
from components.evaluate import evaluate
from components.insert_best import insert_best
from components.insert_lhc import insert_lhc
from components.prepare import prepare
from components.register import register
from components.select import select
from components.train import train
from components.train_backbone import train_backbone
from lhcnet.code_version import execution_name
from lhcnet.config import Config
from pipeline.cluster import Cluster, place


def build(config: Config, cluster: Cluster, execution: str = "") -> Any:
    """The pipeline of a configuration. Its sections are the defaults of the pipeline parameters.

    `execution` names the record in MLflow, by default after settings and code: who changes a parameter of a compiled
    pipeline by hand should compile anew, or the record goes under the old name.
    """
    execution = execution or execution_name(config)
    on_gpu = config.compute.device == "cuda"
    stages = [stage.to_dict() for stage in config.stages]
    names = [config.variant(name).to_dict() for name in config.variants]

    def on(task: dsl.PipelineTask, *, gpu: bool = False) -> dsl.PipelineTask:
        return place(task, cluster, execution, gpu=gpu and on_gpu)

    @dsl.pipeline(name="lhcnet", description="LHC-Net on FER2013: sets A, B and C, the 10 % loss rule, TTA, registry")
    def lhcnet(
        source: str = config.data.source,
        data: dict = config.data.to_dict(),
        network: dict = config.network.to_dict(),
        compute: dict = config.compute.to_dict(),
        checkpoints: dict = config.checkpoints.to_dict(),
        stage1: dict = stages[0],
        stage2: dict = stages[1],
        stage3: dict = stages[2],
        stage4: dict = stages[3],
        seed_backbone: int = config.seeds.backbone,
        seeds_a: list[int] = list(config.seeds.a),
        seed_b: int = config.seeds.b,
        seeds_c: list[int] = list(config.seeds.c),
        variants: list[dict] = names,
        loss_factor: float = config.selection.loss_factor,
        lhc_net_c: dict = config.control.to_dict(),
        evaluation: dict = config.evaluation.to_dict(),
        analysis: dict = config.analysis.to_dict(),
        registry: str = config.registry.model,
    ):
        raw = dsl.importer(artifact_uri=source, artifact_class=dsl.Dataset, reimport=False)
        faces = on(prepare(source=raw.output, data=data))
        trainval = faces.outputs["trainval"]
        training = {"compute": compute, "checkpoints": checkpoints}

        def further(number: int, start: Any, stage: Any, seed: Any) -> Any:
            task = train(trainval=trainval, start=start, number=number, stage=stage, seed=seed, **training)
            return on(task, gpu=True).outputs["model"]

        first = on(
            train_backbone(trainval=trainval, network=network, stage=stage1, seed=seed_backbone, **training),
            gpu=True,
        ).outputs["model"]
        second = further(2, first, stage2, seed_backbone)
        backbone = further(3, second, stage3, seed_backbone)

        with dsl.ParallelFor(seeds_a, name="set-a", parallelism=cluster.parallelism) as seed:
            a = further(4, backbone, stage4, seed)

        with dsl.ParallelFor(variants, name="set-b", parallelism=cluster.parallelism) as variant:
            inserted = on(insert_lhc(model=backbone, variant=variant, seed=seed_b))
            b = further(4, inserted.outputs["inserted"], stage4, seed_b)

        best = on(
            best_of_b(models=dsl.Collected(b), start=backbone, variants=variants, loss_factor=loss_factor)
        ).outputs["best"]

        with dsl.ParallelFor(seeds_c, name="set-c", parallelism=cluster.parallelism) as seed:
            inserted = on(insert_best(model=backbone, best=best, seed=seed))
            c = further(4, inserted.outputs["inserted"], stage4, seed)

        def sets(**members: Any) -> dict[str, Any]:  # the compiler wants a new Collected for every use
            return {name: dsl.Collected(models) for name, models in members.items()}

        selected = on(
            select(
                **sets(set_a=a, set_b=b, set_c=c), stage1=first, stage2=second, start=backbone, loss_factor=loss_factor
            )
        )
        selection, chosen = selected.outputs["selection"], selected.outputs["chosen"]
        gated = on(
            control(**sets(set_b=b, set_c=c), selection=selection, trainval=trainval, settings=lhc_net_c, **training),
            gpu=True,
        ).outputs["models"]
        scored = on(
            evaluate(
                **sets(set_a=a, set_b=b, set_c=c),
                control=gated,
                selection=selection,
                trainval=trainval,
                test=faces.outputs["test"],
                evaluation=evaluation,
                compute=compute,
            ),
            gpu=True,
        )
        scores = scored.outputs["scores"]
        analysed = on(
            analyse(model=chosen, trainval=trainval, analysis=analysis, evaluation=evaluation, compute=compute),
            gpu=True,
        )
        compared = on(
            compare(
                selection=selection,
                scores=scores,
                analysis=analysed.outputs["results"],
                data_report=faces.outputs["report"],
            )
        )
        registered = register(chosen=chosen, scores=scores, report=compared.outputs["report"], name=registry)
        on(registered).set_caching_options(False)

    return lhcnet
