"""The pipeline of the paper's experiment: the same flow as `dvc.yaml`."""

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
from lhcnet.steps import task_settings
from pipeline.cluster import Cluster, configure_task


def build(config: Config, cluster: Cluster, execution: str = "") -> Any:
    """Build the pipeline of a configuration. Its sections are the defaults of the pipeline parameters.

    Args:
        config: the configuration.
        cluster: image, resources and environment of the tasks.
        execution: name of the execution in MLflow; by default derived from settings and code. It is fixed in the
            compiled pipeline: after changing a parameter, compile again.

    Returns:
        The pipeline function, to compile, submit or call.
    """
    execution = execution or execution_name(config)
    wants_gpu = config.compute.device == "cuda"
    stages = [stage.to_dict() for stage in config.stages]
    named_variants = [config.variant(name).to_dict() for name in config.variants]

    def on_cpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return configure_task(task, cluster, execution)

    def on_gpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
        return configure_task(task, cluster, execution, gpu=wants_gpu)

    @dsl.pipeline(name="lhcnet", description="LHC-Net on FER2013: sets A, B and C, the 10 % loss rule, TTA, registry")
    def lhcnet(
        source: str = config.data.source,
        source_version: str = "",
        data: dict = config.data.to_dict(),
        network: dict = config.network.to_dict(),
        context: dict = task_settings(config),
        stage1: dict = stages[0],
        stage2: dict = stages[1],
        stage3: dict = stages[2],
        stage4: dict = stages[3],
        seed_backbone: int = config.seeds.backbone,
        seeds_a: list[int] = list(config.seeds.a),
        seed_b: int = config.seeds.b,
        seeds_c: list[int] = list(config.seeds.c),
        variants: list[dict] = named_variants,
        loss_factor: float = config.selection.loss_factor,
        lhc_net_c: dict = config.control.to_dict(),
        evaluation: dict = config.evaluation.to_dict(),
        analysis: dict = config.analysis.to_dict(),
        registry: str = config.registry.model,
    ):
        """LHC-Net on FER2013: sets A, B and C, the 10 % loss rule, TTA, registry.

        Args:
            source: URI of FER2013.
            source_version: Version that it must have, such as sha256:...; empty: not checked.
            data: Section `data` of params.yaml.
            network: Section `network`: size of ResNet34v2 and its initial weights.
            context: Sections `compute` (device, precision, threads) and `checkpoints`.
            stage1: Training of the backbone, stage 1 (Table 3).
            stage2: Training of the backbone, stage 2 (Table 4).
            stage3: Training of the backbone, stage 3 (Table 5).
            stage4: Training of sets A, B and C (Table 6).
            seed_backbone: Data seed of stages 1-3.
            seeds_a: Data seeds of set A, ResNet34v2 trained further.
            seed_b: Data seed of set B, one LHC-Net for each variant.
            seeds_c: Data seeds of set C, the best variant of set B.
            variants: Settings of the five modules, each with a name.
            loss_factor: Limit of the training loss, as a multiple of that of the start (10 % rule: 1.1).
            lhc_net_c: Section `control`: from which LHC-Nets an LHC-NetC is trained, and how.
            evaluation: Section `evaluation`: test-time augmentation and batch size.
            analysis: Section `analysis`: number of validation images.
            registry: Name of the registered model in MLflow.
        """
        prepared = on_cpu(prepare(source=source, source_version=source_version, data=data))
        trainval = prepared.outputs["trainval"]

        def trained(start: Any, stage_number: int, stage: Any, seed: Any) -> Any:
            task = train(
                trainval=trainval, start=start, stage_number=stage_number, stage=stage, seed=seed, context=context
            )
            return on_gpu(task).outputs["model"]

        first = on_gpu(
            train_backbone(trainval=trainval, network=network, stage=stage1, seed=seed_backbone, context=context)
        ).outputs["model"]
        second = trained(first, 2, stage2, seed_backbone)
        backbone = trained(second, 3, stage3, seed_backbone)

        with dsl.ParallelFor(seeds_a, name="set-a", parallelism=cluster.parallelism) as seed:
            a = trained(backbone, 4, stage4, seed)

        with dsl.ParallelFor(variants, name="set-b", parallelism=cluster.parallelism) as variant:
            inserted = on_cpu(insert_lhc(model=backbone, variant=variant, seed=seed_b)).outputs["inserted"]
            b = trained(inserted, 4, stage4, seed_b)

        best = on_cpu(
            best_of_b(models=dsl.Collected(b), start=backbone, variants=variants, loss_factor=loss_factor)
        ).outputs["best"]

        with dsl.ParallelFor(seeds_c, name="set-c", parallelism=cluster.parallelism) as seed:
            inserted = on_cpu(insert_best(model=backbone, best=best, seed=seed)).outputs["inserted"]
            c = trained(inserted, 4, stage4, seed)

        selected = on_cpu(
            select(
                set_a=dsl.Collected(a),  # the compiler wants a new Collected for every use
                set_b=dsl.Collected(b),
                set_c=dsl.Collected(c),
                stage1=first,
                stage2=second,
                start=backbone,
                loss_factor=loss_factor,
            )
        )
        selection, chosen = selected.outputs["selection"], selected.outputs["chosen"]
        controlled = on_gpu(
            control(
                set_b=dsl.Collected(b),
                set_c=dsl.Collected(c),
                selection=selection,
                trainval=trainval,
                settings=lhc_net_c,
                context=context,
            )
        ).outputs["models"]
        scores = on_gpu(
            evaluate(
                set_a=dsl.Collected(a),
                set_b=dsl.Collected(b),
                set_c=dsl.Collected(c),
                control=controlled,
                selection=selection,
                trainval=trainval,
                test=prepared.outputs["test"],
                evaluation=evaluation,
                context=context,
            )
        ).outputs["scores"]
        analysed = on_gpu(
            analyse(model=chosen, trainval=trainval, analysis=analysis, evaluation=evaluation, context=context)
        ).outputs["results"]
        report = on_cpu(
            compare(selection=selection, scores=scores, analysis=analysed, data_report=prepared.outputs["report"])
        ).outputs["report"]
        on_cpu(register(chosen=chosen, scores=scores, report=report, name=registry)).set_caching_options(False)

    return lhcnet
