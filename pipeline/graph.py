"""The pipeline of the paper's experiment: the same flow as `dvc.yaml`."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from components.analyse import analyse
from components.best_of_b import best_of_b
from components.compare import compare
from components.control import control
from components.evaluate import evaluate
from components.finish import finish
from components.insert_lhc import insert_lhc
from components.prepare import prepare
from components.register import register
from components.select import select
from components.start_weights import start_weights
from components.train import train
from components.train_backbone import train_backbone
from components.train_best import train_best
from lhcnet.code_version import execution_name, step_digest
from lhcnet.config import Config
from lhcnet.steps import task_settings
from lhcnet.steps.control_models import CONTROL_PREFIX
from pipeline.cluster import Cluster, configure_task, pipeline_config

DESCRIPTION = """LHC-Net on FER2013: ResNet34v2 in three stages, then set A (no modules), set B (one LHC-Net for each \
variant) and set C (the best variant, several data seeds); the 10 % loss rule, LHC-NetC, test-time augmentation, \
comparison with the paper, MLflow's model registry."""


def build(config: Config, cluster: Cluster, execution: str = "", lost: Mapping[str, int] | None = None) -> Any:
    """Build the pipeline of a configuration. Its sections are the defaults of the pipeline parameters.

    Args:
        config: the configuration.
        cluster: image, resources and environment of the tasks.
        execution: name of the execution in MLflow; by default derived from settings and code. It is fixed in the
            compiled pipeline: after changing a parameter, compile again.
        lost: id of a model -> how often its training ended early in earlier runs. Its task succeeded, so Kubeflow's
            cache has it; another number of the attempt keeps it from there.

    Returns:
        The pipeline function, to compile, submit or call.
    """
    execution = execution or execution_name(config)
    wants_gpu = config.compute.device == "cuda"
    stages = [stage.to_dict() for stage in config.stages]
    lost = lost or {}
    loop_a = [{"seed": seed, "attempt": lost.get(f"A/seed-{seed}", 0)} for seed in config.seeds.a]
    loop_b = [
        {"variant": config.variant(name).to_dict(), "attempt": lost.get(f"B/{name}", 0)} for name in config.variants
    ]
    loop_c = [
        {"seed": seed, "attempt": sum(lost.get(f"C/{name}/seed-{seed}", 0) for name in config.variants)}
        for seed in config.seeds.c
    ]
    lost_controls = sum(times for id_, times in lost.items() if id_.startswith(CONTROL_PREFIX))

    share_a, share = cluster.shares(len(config.seeds.a), max(len(config.variants), len(config.seeds.c)))

    def on_cpu(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return configure_task(task.set_display_name(name), cluster, execution)

    def on_gpu(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
        return configure_task(task.set_display_name(name), cluster, execution, gpu=wants_gpu)

    @dsl.pipeline(
        name="lhcnet", display_name="LHC-Net", description=DESCRIPTION, pipeline_config=pipeline_config(cluster)
    )
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
        set_a: list[dict] = loop_a,
        seed_b: int = config.seeds.b,
        set_b: list[dict] = loop_b,
        set_c: list[dict] = loop_c,
        loss_factor: float = config.selection.loss_factor,
        minimum: dict = config.selection.minimum.to_dict(),
        lhc_net_c: dict = config.control.to_dict(),
        lhc_net_c_attempt: int = lost_controls,
        evaluation: dict = config.evaluation.to_dict(),
        analysis: dict = config.analysis.to_dict(),
        registry: str = config.registry.model,
        champion: str = config.registry.champion,
    ):
        """LHC-Net on FER2013: sets A, B and C, the 10 % loss rule, TTA, registry.

        Args:
            source: Where FER2013 is.
            source_version: Version that it must have; empty is not checked.
            data: Section `data` of params.yaml.
            network: Section `network`: size of ResNet34v2 and its initial weights.
            context: Sections `compute` (device, precision, threads) and `checkpoints`.
            stage1: Training of the backbone, stage 1 (Table 3).
            stage2: Training of the backbone, stage 2 (Table 4).
            stage3: Training of the backbone, stage 3 (Table 5).
            stage4: Training of sets A, B and C (Table 6).
            seed_backbone: Data seed of stages 1-3.
            set_a: Data seeds of set A, ResNet34v2 trained further. Another `attempt` trains again what the cache has.
            seed_b: Data seed of set B, one LHC-Net for each variant.
            set_b: Variants of set B: settings of the five modules, with a name.
            set_c: Data seeds of set C, the best variant of set B.
            loss_factor: Limit of the training loss, as a multiple of that of the start (10 % rule: 1.1).
            minimum: Section `selection.minimum`: how many models of each set must be kept.
            lhc_net_c: Section `control`: from which LHC-Nets an LHC-NetC is trained, and how.
            lhc_net_c_attempt: Another number trains the LHC-NetCs again that the cache has.
            evaluation: Section `evaluation`: test-time augmentation and batch size.
            analysis: Section `analysis`: number of validation images.
            registry: Name of the registered model in MLflow.
            champion: Setting `registry.champion`: when a new version becomes champion.
        """
        # loops have no names: back ends before 2.16 find the collected outputs of a loop only under kfp's own name
        closing = on_cpu(finish(), "Close the record").set_caching_options(False)
        with dsl.ExitHandler(closing, name="Experiment"):
            prepared = on_cpu(
                prepare(source=source, source_version=source_version, data=data, code=step_digest("prepare")),
                "Prepare FER2013",
            )
            weights = on_cpu(start_weights(network=network, code=step_digest("start-weights")), "Start weights")
            trainval = prepared.outputs["trainval"]
            common = {"trainval": trainval, "context": context, "code": step_digest("train")}

            def trained(name: str, start: Any, stage_number: int, stage: Any, seed: Any, attempt: Any = 0) -> Any:
                further = {"stage_number": stage_number, "stage": stage, "seed": seed, "attempt": attempt}
                task = train(start=start, **further, **common)
                return on_gpu(task, name).outputs

            first = on_gpu(
                train_backbone(
                    network=network, start_weights=weights.output, stage=stage1, seed=seed_backbone, **common
                ),
                "Stage 1: backbone",
            ).outputs
            second = trained("Stage 2: backbone", first["model"], 2, stage2, seed_backbone)
            third = trained("Stage 3: backbone", second["model"], 3, stage3, seed_backbone)
            backbone = third["model"]

            with dsl.ParallelFor(set_a, parallelism=share_a) as item:
                a = trained("Set A: stage 4", backbone, 4, stage4, item.seed, item.attempt)

            with dsl.ParallelFor(set_b, parallelism=share) as item:
                inserted = on_cpu(
                    insert_lhc(model=backbone, variant=item.variant, seed=seed_b, code=step_digest("insert")),
                    "Set B: insert LHC",
                ).outputs["inserted"]
                b = trained("Set B: stage 4", inserted, 4, stage4, seed_b, item.attempt)

            rule = {"loss_factor": loss_factor, "minimum": minimum, "code": step_digest("select")}
            best = on_cpu(
                best_of_b(facts=dsl.Collected(b["facts"]), start=third["facts"], variants=set_b, **rule),
                "Set B: best variant",
            ).outputs["best"]

            with dsl.ParallelFor(set_c, parallelism=share) as item:
                inserting = common | {"code": step_digest("train-inserted")}
                c = on_gpu(
                    train_best(
                        backbone=backbone, best=best, stage=stage4, seed=item.seed, attempt=item.attempt, **inserting
                    ),
                    "Set C: insert LHC, stage 4",
                ).outputs

            selection = on_cpu(
                select(
                    set_a=dsl.Collected(a["facts"]),  # the compiler wants a new Collected for every use
                    set_b=dsl.Collected(b["facts"]),
                    set_c=dsl.Collected(c["facts"]),
                    stage1=first["facts"],
                    stage2=second["facts"],
                    start=third["facts"],
                    **rule,
                ),
                "Select: 10 % loss rule",
            ).outputs["selection"]
            controlled = on_gpu(
                control(
                    set_b=dsl.Collected(b["model"]),
                    set_c=dsl.Collected(c["model"]),
                    selection=selection,
                    trainval=trainval,
                    settings=lhc_net_c,
                    attempt=lhc_net_c_attempt,
                    context=context,
                    code=step_digest("control"),
                ),
                "LHC-NetC",
            ).outputs["models"]
            evaluated = on_gpu(
                evaluate(
                    set_a=dsl.Collected(a["model"]),
                    set_b=dsl.Collected(b["model"]),
                    set_c=dsl.Collected(c["model"]),
                    control=controlled,
                    selection=selection,
                    trainval=trainval,
                    test=prepared.outputs["test"],
                    evaluation=evaluation,
                    context=context,
                    code=step_digest("evaluate"),
                ),
                "Evaluate: plain and TTA",
            ).outputs
            scores, chosen = evaluated["scores"], evaluated["chosen"]
            analysed = on_gpu(
                analyse(
                    model=chosen,
                    trainval=trainval,
                    analysis=analysis,
                    evaluation=evaluation,
                    context=context,
                    code=step_digest("analyse"),
                ),
                "Analyse the LHC modules",
            ).outputs["results"]
            report = on_cpu(
                compare(
                    selection=selection,
                    scores=scores,
                    analysis=analysed,
                    data_report=prepared.outputs["report"],
                    code=step_digest("compare"),
                ),
                "Compare with the paper",
            ).outputs["report"]
            registering = register(
                chosen=chosen,
                scores=scores,
                report=report,
                data_report=prepared.outputs["report"],
                name=registry,
                champion=champion,
            )
            on_cpu(registering, "Register the model").set_caching_options(False)

    return lhcnet
