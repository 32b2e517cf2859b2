"""Commands of the Kubeflow pipeline: check, compile, run on this machine, submit, and look after runs.

kfp is imported when one of them runs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lhcnet.cli_runs import CaBundle, Host, Namespace, TokenFile, add_to, open_backend
from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.config import Config
    from pipeline.cluster import Cluster

app = typer.Typer(
    name="pipeline",
    help="The Kubeflow pipeline: check, run here, submit, watch.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Params = Annotated[Path | None, typer.Option(help="Settings (YAML); default: params.yaml.")]
Profile = Annotated[str | None, typer.Option(help="paper, cpu, cpu_imagenet, gpu_modern or demo, instead of --params.")]
Standalone = Annotated[bool, typer.Option("--standalone", help="The stand-alone pipeline, not sets A, B and C.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="Cluster settings (YAML): image, GPU, resources.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="key=value instead of the setting, e.g. seeds.b=3")]
Source = Annotated[str | None, typer.Option(help="FER2013, where the cluster reaches it; default: data.source.")]


def _config(params: Path | None, name: str | None, changes: list[str] | None = None) -> Config:
    from lhcnet.config import load
    from lhcnet.profiles import parse_change, profile, replace_settings

    if params and name:
        raise LhcnetError("expected --params or --profile, not both")
    config = profile(name) if name else load(params or Path("params.yaml"))
    return replace_settings(config, dict(map(parse_change, changes or [])), "--set") if changes else config


def _cluster(file: Path | None) -> Cluster:
    from pipeline.cluster import Cluster, load_cluster

    return load_cluster(file) if file else Cluster()


def _note(line: str) -> None:
    typer.echo(line, err=True)


def _uri(source: str | None, config: Config) -> str:
    """--source, or the setting without it; an empty one is an unset variable of a shell, not a wish for the setting."""
    if source == "":
        raise LhcnetError("--source: is empty, expected a path or a URI")
    return source or config.data.source


@app.command()
def check(
    params: Params = None,
    profile: Profile = None,
    change: Changes = None,
    cluster: ClusterFile = None,
    source: Source = None,
    standalone: Standalone = False,
    host: Annotated[
        str | None, typer.Option(envvar="KF_PIPELINES_ENDPOINT", show_envvar=True, help="Check this endpoint, too.")
    ] = None,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Check the pipeline before it is submitted.

    Its structure, settings, source, peak resources, and the endpoint if one is given. Exit status 1 if it cannot run.
    """
    config = _config(params, profile, change)
    from pipeline.check import check_pipeline
    from pipeline.source import check_weights
    from pipeline.submit import submission_problems, with_source

    settings, uri = _cluster(cluster), _uri(source, config)
    check_weights(config.network.weights)
    report = check_pipeline(with_source(config, uri), settings, standalone=standalone)
    problems = submission_problems(settings, uri)
    for line in (*report.lines(), *(f"problem: {problem}" for problem in problems)):
        typer.echo(line)
    if host:
        warning = open_backend(host, namespace, token_file, ca_bundle).check(report.back_end)
        typer.echo(f"endpoint {host}: {warning or 'answers, and its version will do'}")
    if report.problems or problems:
        raise typer.Exit(1)


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="Pipeline to write (IR YAML).")] = Path("build/lhcnet.yaml"),
    params: Params = None,
    profile: Profile = None,
    change: Changes = None,
    cluster: ClusterFile = None,
    source: Source = None,
    standalone: Standalone = False,
) -> None:
    """Compile the pipeline to IR YAML.

    The same settings give the same bytes. The source becomes the default of the parameter `source`.
    """
    config = _config(params, profile, change)  # a mistake is reported before kfp is imported
    from pipeline.compile import compile_pipeline
    from pipeline.source import check_source, check_weights
    from pipeline.submit import with_source

    settings, uri = _cluster(cluster), _uri(source, config)
    check_source(uri, settings)
    check_weights(config.network.weights)
    compile_pipeline(with_source(config, uri), settings, out, standalone=standalone)
    typer.echo(out)


@app.command()
def local(
    params: Params = None,
    profile: Profile = None,
    change: Changes = None,
    source: Annotated[str | None, typer.Option(help="FER2013: path or URI; default: data.source.")] = None,
    root: Annotated[Path, typer.Option(help="Folder of all runs; each gets a folder in it.")] = Path("runs"),
    standalone: Standalone = False,
    retries: Annotated[int, typer.Option(min=0, max=1000, help="How often a failed task is retried.")] = 0,
    docker: Annotated[str, typer.Option(metavar="IMAGE", help="Run the tasks as containers of this image.")] = "",
) -> None:
    """Run the pipeline on this machine.

    Uses kfp's local runner, one process or Docker container for each task. Prints the comparison at the end.
    """
    config = _config(params, profile, change)
    from pipeline.local import run

    run(config, source, root, standalone=standalone, retries=retries, image=docker)


@app.command()
def submit(
    host: Host,
    params: Params = None,
    profile: Profile = None,
    change: Changes = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="key=value1,value2: a run for each value, or each combination.")
    ] = None,
    cluster: ClusterFile = None,
    source: Source = None,
    experiment: Annotated[str, typer.Option(help="Kubeflow experiment.")] = "lhcnet",
    name: Annotated[str, typer.Option(help="Name of the run; default: that of its execution in MLflow.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, as `wait` does.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run tasks that the cache has, too.")] = False,
    standalone: Standalone = False,
    namespace: Namespace = None,
    token_file: TokenFile = None,
    ca_bundle: CaBundle = None,
) -> None:
    """Submit a run to a Kubeflow cluster.

    Settings, source and cluster are checked before anything is created. The ids of the runs go to stdout, names and
    links to stderr. With --wait the exit status is that of `wait`.
    """
    config = _config(params, profile, change)
    from pipeline.cluster import back_end_needed
    from pipeline.record import lost_in_earlier_runs
    from pipeline.submit import prepare_runs, submit_runs
    from pipeline.sweep import sweep_of
    from pipeline.watch import wait_for_run

    runs = sweep_of(config, sweep or [])
    settings, uri = _cluster(cluster), _uri(source, config)
    prepared = prepare_runs(
        runs,
        settings,
        uri,
        name=name,
        standalone=standalone,
        cache=not no_cache,
        lost=partial(lost_in_earlier_runs, say=_note),
    )
    backend = open_backend(host, namespace, token_file, ca_bundle)
    if warning := backend.check(back_end_needed(settings)):
        _note(f"warning: {warning}")
    started = submit_runs(backend, prepared, experiment, _note)
    for run_id in started:
        typer.echo(run_id)
    if wait:
        raise typer.Exit(max(wait_for_run(backend, run_id, _note) for run_id in started))


add_to(app)
