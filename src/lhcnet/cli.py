"""The command line: every step of the pipeline on files, settings from `params.yaml`. DVC calls these commands.

A command imports what it calls, so that `--help` answers at once. The commands of other subjects are in the modules
`cli_app` (a page for pictures), `cli_explain` (why a model answers as it does), `cli_export` (files for other
programs), `cli_pipeline` (compile, run and submit the Kubeflow pipeline), `cli_predict` (a trained model on pictures),
`cli_registry` (registered models), `cli_tools` (settings, start weights, drawn faces, tables, MLflow).
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from lhcnet import cli_app, cli_explain, cli_export, cli_pipeline, cli_predict, cli_registry, cli_tools
from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.config import Config
    from lhcnet.steps import RunContext

app = typer.Typer(
    name="lhcnet",
    help="LHC-Net for facial expression recognition: train, compare, predict, export.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich and its Markdown parser takes as long as everything else
)
Params = Annotated[Path, typer.Option("--params", help="Settings (YAML).")]
PARAMS = Path("params.yaml")
MAX_SEED = 2**31 - 1  # as in params.yaml
Trainval = Annotated[Path, typer.Option(help="Store with the splits train and validation.")]
Test = Annotated[Path, typer.Option(help="Store with the sealed split test.")]
TrainvalArgument = Annotated[Path, typer.Argument(help="Store with the splits train and validation.")]
OutModel = Annotated[Path, typer.Argument(help="Model directory to write.")]
Selection = Annotated[Path, typer.Option(help="selection.json, written by `select`.")]


def main(program: typer.Typer = app) -> NoReturn:
    """Run a command. An error is one sentence on stderr, never a traceback unless LHCNET_DEBUG=1 asks for it.

    Status 1: the user can mend it. 2: wrong options. 70: an error that no code foresaw, with its traceback in a file.
    130: interrupted.
    """
    if sys.platform == "win32":
        typer.echo("lhcnet runs on Linux and macOS; use WSL 2 on Windows", err=True)
        sys.exit(1)
    from lhcnet import crash
    from lhcnet.runtime import exit_on_sigterm, tune_gc

    tune_gc()
    exit_on_sigterm()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without UTF-8 shows ? instead of what it cannot show
        sys.stdout.reconfigure(errors="replace")
    # click would print "Aborted!" and exit with 1; this way `finally` and context managers run as well
    signal.signal(signal.SIGINT, lambda *_: sys.exit(crash.INTERRUPTED))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("alembic", "botocore", "mlflow", "matplotlib", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        program()
    except LhcnetError as error:
        crash.show_traceback(error)
        typer.echo(f"lhcnet: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # unwritable output, a full disk
        crash.show_traceback(error)
        typer.echo(f"lhcnet: {error.filename or 'output'}: {error.strerror or error}", err=True)
        sys.exit(1)
    except Exception as error:
        crash.show_traceback(error)
        typer.echo(f"lhcnet: {crash.describe(error)}", err=True)
        sys.exit(crash.STATUS)
    sys.exit(0)


def _version(asked: bool) -> None:
    from lhcnet import __version__

    if asked:
        typer.echo(f"lhcnet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _open(params: Path) -> tuple[Config, RunContext]:
    from lhcnet.config import load
    from lhcnet.steps import RunContext

    config = load(params)
    return config, RunContext.of_config(config)


def model_folders(config: Config, folder: Path, sets: str) -> list[Path]:
    """Model directories of the given sets below `folder`, for the seeds and variants of the configuration.

    Args:
        config: the configuration.
        folder: holds a/seed-*, b/*, c/seed-*.
        sets: letters of "ABC".

    Raises:
        LhcnetError: `sets` has another letter, or none.
    """
    folders = {
        "A": [folder / "a" / f"seed-{seed}" for seed in config.seeds.a],
        "B": [folder / "b" / name for name in config.variants],
        "C": [folder / "c" / f"seed-{seed}" for seed in config.seeds.c],
    }
    if not sets or set(sets) - set(folders):
        raise LhcnetError(f"--sets {sets}: expected letters of ABC")
    return [path for letter in sets for path in folders[letter]]


@app.command()
def prepare(
    trainval: Annotated[Path, typer.Argument(help="Store to write, with the splits train and validation.")],
    test: Annotated[Path, typer.Argument(help="Store to write, with the sealed split test.")],
    report: Annotated[Path, typer.Argument(help="Data report to write (JSON).")],
    params: Params = PARAMS,
) -> None:
    """Read FER2013 and write its splits as two stores.

    Reads `data.source`, a path or URI. The data report counts classes, duplicates and damaged images.
    """
    from lhcnet import steps
    from lhcnet.data import remote

    config, context = _open(params)
    source = remote.parse_source(config.data.source)
    if "DVC_STAGE" in os.environ and source.scheme:  # DVC follows the content of paths alone
        raise LhcnetError(
            f"data.source: {source.shown}: expected a path when DVC runs the step: `dvc import-url URL data/raw/NAME` "
            "or `dvc import REPO PATH -o data/raw/NAME` gets the data once and keeps their version; name that path"
        )
    steps.prepare(trainval, test, report, data=config.data, execution=context.execution)


@app.command()
def train(
    trainval: TrainvalArgument,
    out: OutModel,
    stage: Annotated[int, typer.Option(min=1, max=4, help="Stage number (Tables 3-6).")],
    start: Annotated[Path | None, typer.Option(help="Model directory to start from (stages 2-4).")] = None,
    start_weights: Annotated[Path | None, typer.Option(help="Stage 1: folder that `start-weights` wrote.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="Data seed; default: seeds.backbone.")] = None,
    standalone: Annotated[
        str | None, typer.Option(help="Stand-alone pipeline (stages 1-3): resnet34v2, or a name under `variants`.")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Train one stage.

    Stage 1 trains a new network; without --start-weights it reads the file that `network.weights` names. Stages 2-4
    train a model further (--start). An interrupted training resumes from its checkpoint when the command runs again.
    """
    from lhcnet import steps
    from lhcnet.config import PLAIN

    config, context = _open(params)
    _refuse_impossible_stage(stage, start, standalone, start_weights)
    seed = config.seeds.backbone if seed is None else seed
    settings = (config.standalone_stages if standalone else config.stages)[stage - 1]
    more: dict[str, Any] = {"stage": settings, "seed": seed, "context": context}
    new: dict[str, Any] = {"network": config.network, "start_weights": start_weights}
    if start:
        steps.train_stage(trainval, start, out, stage_number=stage, **more)
    elif standalone:
        variant = None if standalone == PLAIN else config.variant(standalone)
        steps.train_standalone(trainval, out, variant=variant, **new, **more)
    else:
        steps.train_backbone(trainval, out, **new, **more)


def _refuse_impossible_stage(stage: int, start: Path | None, standalone: str | None, weights: Path | None) -> None:
    if (stage == 1) != (start is None):
        raise LhcnetError("train: stage 1 trains a new network, without --start; stages 2-4 need --start")
    if start and weights:
        raise LhcnetError("train: --start-weights are of stage 1; stages 2-4 have the weights of --start")
    if standalone and stage == 4:
        raise LhcnetError("train: the stand-alone pipeline ends with stage 3")


@app.command()
def insert(
    model: Annotated[Path, typer.Argument(help="Model directory of a ResNet34v2.")],
    out: OutModel,
    variant: Annotated[str | None, typer.Option(help="Set B: a name under `variants`.")] = None,
    best_of: Annotated[Path | None, typer.Option(help="Set C: selection.json; its best variant is taken.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Initial weights of the modules; default: seeds.b.")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Insert attention modules into a network.

    The seed draws the initial weights of the modules; the other weights stay as they are.
    """
    from lhcnet import steps

    config, _ = _open(params)
    seed = config.seeds.b if seed is None else seed
    if variant and not best_of:
        steps.insert_lhc(model, out, variant=config.variant(variant), set_="B", seed=seed)
    elif best_of and not variant:
        steps.insert_lhc(model, out, variant=config.variant(_chosen_variant(best_of)), set_="C", seed=seed)
    else:
        raise LhcnetError("insert: expected one of --variant (set B) and --best-of (set C)")


def _chosen_variant(selection: Path) -> str:
    from lhcnet.protocol.selection import read_selection

    return read_selection(selection).chosen_variant


@app.command()
def select(
    folder: Annotated[Path, typer.Argument(help="Holds a/seed-*, b/*, c/seed-*.")],
    backbone: Annotated[list[Path], typer.Option(help="A stage of the backbone; the start of stage 4 comes last.")],
    out: Annotated[Path, typer.Option(help="selection.json to write.")],
    sets: Annotated[str, typer.Option(help="Letters of ABC.")] = "ABC",
    chosen: Annotated[Path | None, typer.Option(help="Copy the chosen model directory here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Apply the 10 % loss rule and choose a model.

    Rejects models whose training loss is too high; chooses the best of the others on validation.
    """
    from lhcnet import steps

    config, context = _open(params)
    steps.select(
        model_folders(config, folder, sets),
        backbone,
        out,
        loss_factor=config.selection.loss_factor,
        minimum=config.selection.minimum,
        chosen=chosen,
        execution=context.execution,
    )


@app.command()
def control(
    folder: Annotated[Path, typer.Argument(help="Holds b/*, c/seed-*.")],
    selection: Selection,
    trainval: Trainval,
    out: Annotated[Path, typer.Option(help="Folder to write, with one model directory for each LHC-NetC.")],
    params: Params = PARAMS,
) -> None:
    """Train LHC-NetC from LHC-Nets.

    Trains the five weights of the residual sums; all other weights are frozen. The setting `control.models` says from
    which models: the chosen one, all kept ones, or none.
    """
    from lhcnet import steps

    config, context = _open(params)
    models = model_folders(config, folder, "BC")
    steps.control(models, selection, trainval, out, control=config.control, context=context)


@app.command()
def evaluate(
    folder: Annotated[Path | None, typer.Argument(help="Holds a/seed-*, b/*, c/seed-*.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Instead of `folder`: a model directory, or a published TensorFlow checkpoint."),
    ] = None,
    selection: Annotated[Path | None, typer.Option(help="With `folder`: selection.json.")] = None,
    control: Annotated[Path | None, typer.Option(help="With `folder`: the LHC-NetCs, written by `control`.")] = None,
    out: Annotated[Path | None, typer.Option(help="With `folder`: folder to write.")] = None,
    chosen: Annotated[Path | None, typer.Option(help="With `folder`: copy the chosen model directory here.")] = None,
    trainval: Trainval = Path("artifacts/trainval"),
    test: Test = Path("artifacts/test"),
    device: Annotated[str | None, typer.Option(help="cpu or cuda, instead of compute.device.")] = None,
    params: Params = PARAMS,
) -> None:
    """Score models on test, without TTA and with it.

    The kept models below `folder` are scored into --out. With --weights, one model is scored and printed.
    """
    from lhcnet import steps

    config, context = _open(params)
    if device:
        context = context.with_device(device)
    if weights and not (folder or selection or control or out or chosen):
        scores = steps.evaluate_weights(weights, trainval, test, evaluation=config.evaluation, context=context)
        cli_tools.show_scores(scores)
    elif folder and selection and out and not weights:
        models, settings = model_folders(config, folder, "ABC"), config.evaluation
        also = {"control": control, "chosen": chosen}
        steps.evaluate(models, selection, trainval, test, out, evaluation=settings, context=context, **also)
    else:
        raise LhcnetError("evaluate: expected --weights alone, or a folder with --selection and --out")


@app.command()
def analyse(
    model: Annotated[Path, typer.Argument(help="Model directory.")],
    trainval: TrainvalArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    params: Params = PARAMS,
) -> None:
    """Analyse the LHC modules of a model (section 3.2.4).

    On validation images: accuracy with modules and heads switched off or reset, correlation of heads, scaling.
    """
    from lhcnet import steps

    config, context = _open(params)
    steps.analyse(model, trainval, out, analysis=config.analysis, evaluation=config.evaluation, context=context)


@app.command()
def compare(
    selection: Selection,
    evaluation: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote.")],
    data: Annotated[Path, typer.Option(help="Data report that `prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    analysis: Annotated[Path | None, typer.Option(help="Folder that `analyse` wrote.")] = None,
    params: Params = PARAMS,
) -> None:
    """Compare with the paper and write the report.

    Writes statistics, Tables 7 and A2, and report.html; prints the main tables.
    """
    from lhcnet import steps

    _, context = _open(params)
    steps.compare(selection, evaluation, out, data_report=data, analysis=analysis, execution=context.execution)
    cli_tools.show(out)


@app.command()
def register(
    chosen: Annotated[Path, typer.Option(help="Model directory of the chosen model.")],
    evaluation: Annotated[Path, typer.Option(help="Folder that `evaluate` wrote.")],
    data: Annotated[Path, typer.Option(help="Data report that `prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Name, version and alias are written here (JSON).")],
    params: Params = PARAMS,
) -> None:
    """Register the chosen model in MLflow.

    As `challenger`, and as `champion` by the rule `registry.champion`; `registry.model` is its name.
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name

    config, _ = _open(params)
    name = execution_name(config)
    steps.register(chosen, evaluation, out, data_report=data, registry=config.registry, execution=name)


@app.command("compare-standalone")
def compare_standalone(
    folder: Annotated[Path, typer.Argument(help="Holds <network>/seed-*/stage*.")],
    trainval: Trainval,
    test: Test,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    params: Params = PARAMS,
) -> None:
    """Compare LHC-Net and ResNet34v2, stand-alone.

    On test, after each of the stages 1-3, with the same data seeds. Writes tables and report.html; prints the tables.
    """
    from lhcnet import steps
    from lhcnet.config import PLAIN

    config, context = _open(params)
    names, seeds = (PLAIN, config.standalone.variant), config.standalone.seeds
    models = [folder / name / f"seed-{s}" / f"stage{stage}" for name in names for s in seeds for stage in (1, 2, 3)]
    steps.compare_standalone(models, trainval, test, out, evaluation=config.evaluation, context=context)
    cli_tools.show(out)


cli_tools.add_to(app)
cli_registry.add_to(app)
cli_predict.add_to(app)
cli_explain.add_to(app)
cli_export.add_to(app)
cli_app.add_to(app)
app.add_typer(cli_pipeline.app, name="pipeline")
