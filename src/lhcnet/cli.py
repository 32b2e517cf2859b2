"""The command line: every step of the pipeline on files, settings from `params.yaml`. DVC calls these commands.

A command imports what it calls, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from lhcnet.errors import LhcnetError
from lhcnet.report.terminal import print_report, print_scores, print_table
from lhcnet.runtime import tune_gc

if TYPE_CHECKING:
    from lhcnet.config import Config

app = typer.Typer(
    name="lhcnet",
    help="LHC-Net for facial expression recognition: the steps of the pipeline. Settings come from params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich and its Markdown parser would double the time it takes
)
tracking = typer.Typer(help="The record in MLflow.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(tracking, name="tracking")
Params = Annotated[Path, typer.Option("--params", help="Configuration file.")]
PARAMS = Path("params.yaml")


def main() -> NoReturn:
    """Entry point: a `LhcnetError` is one sentence on stderr and status 1, never a traceback."""
    tune_gc()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("alembic", "mlflow", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except LhcnetError as error:
        typer.echo(f"lhcnet: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # unwritable output, a full disk
        typer.echo(f"lhcnet: {error.filename or 'output'}: {error.strerror or error}", err=True)
        sys.exit(1)
    sys.exit(0)


def model_folders(config: Config, folder: Path, sets: str) -> list[Path]:
    """Where the models of the sets (letters of "ABC") lie below `folder`; seeds no longer listed are left out."""
    places = {
        "A": [folder / "a" / f"seed-{seed}" for seed in config.seeds.a],
        "B": [folder / "b" / name for name in config.variants],
        "C": [folder / "c" / f"seed-{seed}" for seed in config.seeds.c],
    }
    if not sets or set(sets) - set(places):
        raise LhcnetError(f"--sets {sets}: expected letters of ABC")
    return [place for letter in sets for place in places[letter]]


@app.command("profile")
def profile_(
    name: Annotated[str, typer.Argument(help="paper, cpu or demo.")],
    change: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. stage4.patience=1")] = None,
) -> None:
    """Print a profile as a complete params.yaml.

    lhcnet profile cpu > params.yaml
    """
    from lhcnet.io.yaml import read_yaml
    from lhcnet.profiles import profile, to_yaml

    overrides: dict[str, Any] = {}
    for item in change or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise LhcnetError(f"--set {item}: expected key=value")
        overrides[key] = read_yaml(f"value: {value}", f"--set {item}")["value"]
    typer.echo(to_yaml(profile(name, overrides)), nl=False)


@app.command()
def check(params: Params = PARAMS) -> None:
    """Validate params.yaml.

    Prints the name its execution will have in MLflow.
    """
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    typer.echo(execution_name(load(params)))


@app.command()
def faces(
    out: Annotated[Path, typer.Argument(help="faces.zip or faces.csv, in the shapes of FER2013.")],
    images: Annotated[int, typer.Option(min=200, help="How many faces, all splits together.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Draw faces with the seven expressions.

    They stand in for FER2013.
    """
    from lhcnet.data.drawn_faces import draw, write_csv, write_zip
    from lhcnet.io.atomic import atomic_file

    writers: dict[str, Callable[..., None]] = {".csv": write_csv, ".zip": write_zip}
    if out.suffix not in writers:
        raise LhcnetError(f"{out}: expected a name that ends in .zip or .csv")
    with atomic_file(out) as file:
        writers[out.suffix](draw(images, seed), file)


@app.command()
def prepare(trainval: Path, test: Path, report: Path, params: Params = PARAMS) -> None:
    """Read FER2013 into the stores TRAINVAL and TEST.

    Writes the data REPORT (JSON) as well.
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    steps.prepare(trainval, test, report, data=config.data, execution=execution_name(config))


@app.command()
def train(
    trainval: Path,
    out: Path,
    stage: Annotated[int, typer.Option(min=1, max=4, help="Which stage (Tables 3-6).")],
    start: Annotated[Path | None, typer.Option(help="Model directory to start from (stages 2-4).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Data seed; default: seeds.backbone.")] = None,
    standalone: Annotated[
        str | None, typer.Option(help="Stand-alone pipeline (stages 1-3): resnet34v2, or a name under `variants`.")
    ] = None,
    params: Params = PARAMS,
) -> None:
    """Train one stage and write the model directory OUT."""
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import PLAIN, load

    config = load(params)
    if standalone and stage == 4:
        raise LhcnetError("train: the stand-alone pipeline ends with stage 3")
    steps.train(
        trainval,
        out,
        number=stage,
        stage=(config.standalone_stages if standalone else config.stages)[stage - 1],
        variant=config.variant(standalone) if standalone and standalone != PLAIN and stage == 1 else None,
        standalone=standalone is not None,
        seed=config.seeds.backbone if seed is None else seed,
        compute=config.compute,
        checkpoints=config.checkpoints,
        network=config.network if start is None else None,
        start=start,
        execution=execution_name(config),
    )


@app.command()
def insert(
    model: Path,
    out: Path,
    variant: Annotated[str | None, typer.Option(help="Set B: a name under `variants`.")] = None,
    best_of: Annotated[Path | None, typer.Option(help="Set C: the selection whose best variant is taken.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: seeds.b.")] = None,
    params: Params = PARAMS,
) -> None:
    """Put five fresh attention modules into MODEL."""
    from lhcnet import steps
    from lhcnet.config import load
    from lhcnet.protocol.selection import read_selection

    config = load(params)
    if (variant is None) == (best_of is None):
        raise LhcnetError("insert: expected one of --variant (set B) and --best-of (set C)")
    if best_of is not None:
        variant = read_selection(best_of).chosen_variant
    assert variant is not None
    steps.insert_lhc(
        model,
        out,
        variant=config.variant(variant),
        set_="B" if best_of is None else "C",
        seed=config.seeds.b if seed is None else seed,
    )


@app.command()
def select(
    folder: Annotated[Path, typer.Argument(help="Holds a/seed-*, b/*, c/seed-*.")],
    backbone: Annotated[list[Path], typer.Option(help="The stages of the backbone, the start of stage 4 last.")],
    out: Annotated[Path, typer.Option(help="selection.json to write.")],
    sets: Annotated[str, typer.Option(help="Letters of ABC.")] = "ABC",
    chosen: Annotated[Path | None, typer.Option(help="Copy the chosen model directory here.")] = None,
    params: Params = PARAMS,
) -> None:
    """Apply the 10 % loss rule and choose a model.

    The choice is made on validation accuracy.
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    steps.select(
        model_folders(config, folder, sets),
        backbone,
        out,
        loss_factor=config.selection.loss_factor,
        chosen=chosen,
        execution=execution_name(config),
    )


@app.command()
def control(
    folder: Annotated[Path, typer.Argument(help="Holds b/*, c/seed-*.")],
    selection: Annotated[Path, typer.Option()],
    trainval: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    params: Params = PARAMS,
) -> None:
    """LHC-NetC: train the five weights of the residual sums.

    From kept LHC-Nets (`control.models`).
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    steps.control(
        model_folders(config, folder, "BC"),
        selection,
        trainval,
        out,
        control=config.control,
        compute=config.compute,
        checkpoints=config.checkpoints,
        execution=execution_name(config),
    )


@app.command()
def evaluate(
    folder: Annotated[Path | None, typer.Argument(help="Holds a/seed-*, b/*, c/seed-*.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Instead of FOLDER: one model directory, or a published TensorFlow checkpoint.")
    ] = None,
    selection: Annotated[Path | None, typer.Option(help="With FOLDER.")] = None,
    control: Annotated[Path | None, typer.Option(help="With FOLDER: the LHC-NetCs.")] = None,
    out: Annotated[Path | None, typer.Option(help="With FOLDER.")] = None,
    trainval: Annotated[Path, typer.Option()] = Path("artifacts/trainval"),
    test: Annotated[Path, typer.Option(help="The sealed test store.")] = Path("artifacts/test"),
    device: Annotated[str | None, typer.Option(help="cpu or cuda, instead of compute.device.")] = None,
    params: Params = PARAMS,
) -> None:
    """Score models, plain and with test-time augmentation.

    The kept models below FOLDER, or one model (--weights).
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import Compute, load, parse

    config = load(params)
    changed = config.compute.to_dict() | ({"device": device} if device else {})
    evaluation, compute = config.evaluation, parse(Compute, changed, "--device")
    if weights is not None and not (folder or selection or control or out):
        print_scores(steps.evaluate_weights(weights, trainval, test, evaluation=evaluation, compute=compute))
    elif weights is None and folder and selection and out:
        steps.evaluate(
            model_folders(config, folder, "ABC"),
            selection,
            trainval,
            test,
            out,
            evaluation=evaluation,
            compute=compute,
            control=control,
            execution=execution_name(config),
        )
    else:
        raise LhcnetError("evaluate: expected --weights alone, or FOLDER with --selection and --out")


@app.command()
def analyse(
    model: Path,
    trainval: Path,
    out: Path,
    params: Params = PARAMS,
) -> None:
    """Analyse the LHC modules of MODEL (section 3.2.4).

    On validation images: modules and heads off, correlation, T.
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    steps.analyse(
        model,
        trainval,
        out,
        analysis=config.analysis,
        evaluation=config.evaluation,
        compute=config.compute,
        execution=execution_name(config),
    )


@app.command()
def compare(
    selection: Annotated[Path, typer.Option()],
    evaluation: Annotated[Path, typer.Option()],
    data: Annotated[Path, typer.Option(help="The data report of `prepare`.")],
    out: Annotated[Path, typer.Option()],
    analysis: Annotated[Path | None, typer.Option(help="The folder that `analyse` wrote.")] = None,
    params: Params = PARAMS,
) -> None:
    """Compare with the paper: Tables 7 and A2, the report.

    Writes the tables beside the paper's figures, the statistics, and the report (report.html).
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    steps.compare(
        selection,
        evaluation,
        out,
        data_report=data,
        analysis=analysis,
        execution=execution_name(load(params)),
    )
    print_report(out)


@app.command()
def register(
    chosen: Annotated[Path, typer.Option()],
    evaluation: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()],
    params: Params = PARAMS,
) -> None:
    """Register the chosen model in MLflow as `champion`."""
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    steps.register(chosen, evaluation, out, name=config.registry.model, execution=execution_name(config))


@app.command("compare-standalone")
def compare_standalone(
    folder: Annotated[Path, typer.Argument(help="Holds <network>/seed-*/stage*.")],
    trainval: Annotated[Path, typer.Option()],
    test: Annotated[Path, typer.Option(help="The sealed test store.")],
    out: Annotated[Path, typer.Option()],
    params: Params = PARAMS,
) -> None:
    """Compare the stand-alone LHC-Nets and ResNet34v2s.

    With the same data seeds, after each of the stages 1-3.
    """
    from lhcnet import steps
    from lhcnet.code_version import execution_name
    from lhcnet.config import PLAIN, load

    config = load(params)
    networks, seeds = (PLAIN, config.standalone.variant), config.standalone.seeds
    steps.compare_standalone(
        [folder / n / f"seed-{s}" / f"stage{stage}" for n in networks for s in seeds for stage in (1, 2, 3)],
        trainval,
        test,
        out,
        evaluation=config.evaluation,
        compute=config.compute,
        execution=execution_name(config),
    )
    print_report(out)


@app.command()
def sizes(
    out: Annotated[Path | None, typer.Option(help="Write what was counted here (.csv).")] = None,
) -> None:
    """Count parameters and attention shares of Table A2.

    In the networks that can be built here.
    """
    from lhcnet.analysis.parameter_counts import count, write
    from lhcnet.report.analysis_tables import parameters_table

    counted = count()
    print_table(parameters_table(counted))
    if out is not None:
        write(counted, out)


@app.command("appendix-b")
def appendix_b(
    figure: Annotated[Path | None, typer.Option(help="Save Figure A1 here (.png, .svg or .pdf).")] = None,
) -> None:
    """Compare n local heads with a global one (Appendix B).

    Which is more efficient? G1, G2, L1 and L2 for all A and B.
    """
    from lhcnet.report.analysis_tables import appendix_b_table

    print_table(appendix_b_table())
    if figure is not None:
        from lhcnet.report.analysis_plots import figure_a1

        figure_a1().savefig(figure)


@tracking.command("replay")
def tracking_replay(
    folder: Annotated[Path | None, typer.Argument(help="Holds the journals; default: LHCNET_JOURNAL.")] = None,
) -> None:
    """Write to MLflow what it lacks.

    Steps that MLflow did not answer left journals. Twice changes nothing.
    """
    from lhcnet.tracking.delivery import replay
    from lhcnet.tracking.journal import journal_root

    root = folder or journal_root()
    replayed = replay(root)
    for one in replayed:
        typer.echo(f"{one.execution}: {one.step}: {one.lacking or f'{one.entries} entries written'}")
    if lacking := sum(bool(one.lacking) for one in replayed):
        raise LhcnetError(f"{root}: MLflow still lacks something of {lacking} of {len(replayed)} journals")
    if not replayed:
        typer.echo(f"{root}: MLflow has everything")


@app.command()
def show(report: Annotated[Path, typer.Argument(help="The folder that a comparison wrote.")]) -> None:
    """Show the tables of a finished comparison."""
    print_report(report)
