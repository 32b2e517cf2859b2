"""Settings, start weights, drawn faces, tables, the record in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lhcnet.cli_record import runs
from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.protocol.score import Score

data = typer.Typer(help="The data set.", no_args_is_help=True, rich_markup_mode=None)
tracking = typer.Typer(help="The record in MLflow.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program `lhcnet`."""
    for command in (profile, check, start_weights, faces, sizes, appendix_b, show):
        app.command()(command)
    app.add_typer(tracking, name="tracking")
    app.add_typer(data, name="data")
    app.add_typer(runs, name="runs")


def profile(
    name: Annotated[str, typer.Argument(help="paper, cpu, cpu_imagenet, gpu_modern or demo.")],
    change: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. stage4.patience=1")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Print a profile as a complete params.yaml.

    lhcnet profile cpu --out params.yaml

    The profile cpu gets the precision of this machine's processor: bfloat16 where it computes with that natively.
    """
    from lhcnet.io.atomic import atomic_file
    from lhcnet.profiles import parse_change, profile, to_yaml, with_native_precision

    text = to_yaml(profile(name, with_native_precision(name, dict(map(parse_change, change or [])))))
    if out is None:
        typer.echo(text, nl=False)
        return
    with atomic_file(out) as file:
        file.write_text(text, encoding="utf-8")


@data.command("audit")
def audit(
    out: Annotated[Path, typer.Argument(help="Folder to write: figures, pairs, and a page with pictures.")],
    source: Annotated[str | None, typer.Option(help="Another source than data.source.")] = None,
    params: Annotated[Path, typer.Option("--params", help="Settings (YAML).")] = Path("params.yaml"),
) -> None:
    """Find duplicates, label conflicts, damaged images.

    Near duplicates, contradicting labels, damaged images, differences between the splits. A page shows them; the
    figures go to MLflow.
    """
    from lhcnet import steps
    from lhcnet.config import load

    config = load(params)
    data = config.data if source is None else config.data.model_copy(update={"source": source})
    context = steps.RunContext.of_config(config)
    figures = steps.audit_data(out, data=data, execution=context.execution)
    for split, number in figures["near_duplicates_in_train"].items():
        typer.echo(f"{number} images of {split} are near duplicates of training images")
    typer.echo(f"{figures['groups_with_several_labels']} groups of near duplicates have several labels")
    for shift in figures["shifts"]:
        if shift["differs"]:
            typer.echo(f"{shift['measure']} of {shift['split']} differs from train (distance {shift['distance']:.2f})")
    typer.echo(f"Pictures: {out / 'audit.html'}")


def check(
    params: Annotated[Path, typer.Option("--params", help="Settings (YAML).")] = Path("params.yaml"),
) -> None:
    """Validate params.yaml.

    Prints the name that its execution will have in MLflow. Another backbone than `lhcnet` is built: the layers that its
    modules follow are printed with the sizes of their maps, and the modules of each variant are tried.
    """
    from lhcnet.code_version import execution_name
    from lhcnet.config import load

    config = load(params)
    typer.echo(execution_name(config))
    if not config.network.is_lhcnet:
        from lhcnet.steps.insert import check_variants

        typer.echo(check_variants(config))


def start_weights(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    params: Annotated[Path, typer.Option("--params", help="Settings (YAML).")] = Path("params.yaml"),
) -> None:
    """Write the start weights of stage 1 to a folder.

    For `train --stage 1 --start-weights`. What `network.weights` names is downloaded if necessary, checked, and tried
    in the network.
    """
    from lhcnet import steps
    from lhcnet.config import load

    steps.start_weights(out, network=load(params).network)


def faces(
    out: Annotated[Path, typer.Argument(help="faces.zip or faces.csv, in the shapes of FER2013.")],
    images: Annotated[int, typer.Option(min=200, max=200_000, help="Number of faces, all splits together.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawing.")] = 0,
) -> None:
    """Draw faces with the seven expressions.

    They replace FER2013 in the demo and in tests.
    """
    from lhcnet.data.drawn_faces import draw, write_csv, write_zip
    from lhcnet.io.atomic import atomic_file

    writers: dict[str, Callable[..., None]] = {".csv": write_csv, ".zip": write_zip}
    if out.suffix not in writers:
        raise LhcnetError(f"{out}: expected a name that ends in .zip or .csv")
    with atomic_file(out) as file:
        writers[out.suffix](draw(images, seed), file)


def sizes(
    out: Annotated[Path | None, typer.Option(help="Write the counts here as well (.csv).")] = None,
) -> None:
    """Count parameters and attention shares of Table A2.

    For the networks that can be built here.
    """
    from lhcnet.analysis.parameter_counts import count, write
    from lhcnet.io.atomic import atomic_file
    from lhcnet.io.preflight import output_file
    from lhcnet.report.analysis_tables import parameters_table
    from lhcnet.report.terminal import print_table

    if out is not None:
        output_file(out, None)  # before the work
    counted = count()
    print_table(parameters_table(counted))
    if out is not None:
        with atomic_file(out) as file:
            write(counted, file)


def appendix_b(
    figure: Annotated[Path | None, typer.Option(help="Save Figure A1 here (.png, .svg or .pdf).")] = None,
) -> None:
    """Compare n local heads with a global one (Appendix B).

    Prints G1, G2, L1 and L2 for all A and B, and which of the two is more efficient.
    """
    from lhcnet.io.preflight import output_file
    from lhcnet.report.analysis_tables import appendix_b_table
    from lhcnet.report.terminal import print_table

    if figure is not None and figure.suffix not in (".png", ".svg", ".pdf"):
        raise LhcnetError(f"{figure}: expected a name that ends in .png, .svg or .pdf")
    if figure is not None:
        output_file(figure, None)
    print_table(appendix_b_table())
    if figure is not None:
        from lhcnet.io.atomic import atomic_file
        from lhcnet.report.analysis_plots import figure_a1

        with atomic_file(figure) as file:
            figure_a1().savefig(file, format=figure.suffix[1:] or None)


def show(report: Annotated[Path, typer.Argument(help="Folder that a comparison wrote.")]) -> None:
    """Print the tables of a finished comparison."""
    from lhcnet.report.terminal import print_report

    print_report(report)


def show_scores(scores: Mapping[str, Score]) -> None:
    """Print scores as a table."""
    from lhcnet.report.terminal import print_scores

    print_scores(scores)


@tracking.command("replay")
def replay_journals(
    folder: Annotated[Path | None, typer.Argument(help="Holds the journals; default: LHCNET_JOURNAL.")] = None,
) -> None:
    """Send missing entries of the record to MLflow.

    A step that MLflow did not answer keeps its journal. Running this twice changes nothing.
    """
    from lhcnet.tracking.bounded import deliver
    from lhcnet.tracking.journal import journal_root
    from lhcnet.tracking.replay import replay

    root = folder or journal_root()
    replayed = []
    for one in replay(root, deliver):
        typer.echo(f"{one.execution}: {one.step}: {one.lacking or f'{one.entries} entries written'}{one.moved}")
        replayed.append(one)
    if lacking := sum(bool(one.lacking) for one in replayed):
        raise LhcnetError(f"{root}: MLflow still lacks entries of {lacking} of {len(replayed)} journals")
    if not replayed:
        typer.echo(f"{root}: the record in MLflow is complete")


@tracking.command("clean")
def clean(
    older_than: Annotated[str, typer.Option(help="Age: a number and h, d or w, for example 30d.")],
    apply: Annotated[bool, typer.Option("--apply", help="Remove what is shown otherwise.")] = False,
    journal: Annotated[Path | None, typer.Option(help="Holds the journals; default: LHCNET_JOURNAL.")] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Default: LHCNET_CHECKPOINTS.")] = None,
    pipeline_root: Annotated[str, typer.Option(help="Folder or s3://BUCKET/PREFIX of a Kubeflow pipeline.")] = "",
) -> None:
    """Delete what old runs wrote.

    Journals, checkpoints, artifacts in MLflow, outputs below a pipeline root. Only what this project wrote, what has
    ended and what no training uses. Registered models are kept.
    """
    from itertools import chain

    from lhcnet.config import Checkpoints
    from lhcnet.steps.clean_root import old_runs
    from lhcnet.tracking import clean as find
    from lhcnet.tracking.journal import journal_root

    for folder in (journal, checkpoints):
        if folder is not None and not folder.is_dir():
            raise LhcnetError(f"{folder}: there is no such folder")
    limit, root = find.before(older_than), (journal or journal_root()).absolute()
    found = chain(
        find.old_journals(root, limit),
        find.old_times(root, limit),
        find.old_checkpoints(checkpoints or Checkpoints().directory, limit),
        find.old_artifacts(limit),
        old_runs(pipeline_root, limit) if pipeline_root else (),
    )
    count = total = failed = 0
    for item in found:
        try:
            if apply:
                item.remove()
        except (OSError, LhcnetError) as error:
            typer.echo(f"not removed: {item.what}: {error}", err=True)
            failed += 1
            continue
        typer.echo(f"{'removed' if apply else 'would remove'} {item.what} ({item.size:,} bytes)")
        count, total = count + 1, total + item.size
    typer.echo(f"{'removed' if apply else 'would remove'}: {count}, {total:,} bytes")
    if count and not apply:
        typer.echo("Nothing was removed; --apply removes it.")
    if failed:
        raise LhcnetError(f"{failed} could not be removed")
