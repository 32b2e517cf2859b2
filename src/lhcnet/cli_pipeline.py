"""Commands of the Kubeflow pipeline: compile, run on this machine, submit. kfp is imported when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lhcnet.errors import LhcnetError

if TYPE_CHECKING:
    from lhcnet.config import Config
    from pipeline.cluster import Cluster

app = typer.Typer(
    name="pipeline",
    help="The Kubeflow pipeline: compile, run here, submit.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Params = Annotated[Path | None, typer.Option(help="Settings (YAML); default: params.yaml.")]
Profile = Annotated[str | None, typer.Option(help="paper, cpu or demo, instead of --params.")]
Standalone = Annotated[bool, typer.Option("--standalone", help="The stand-alone pipeline, not sets A, B and C.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="Cluster settings (YAML): image, GPU, resources.")]


def _config(params: Path | None, name: str | None) -> Config:
    from lhcnet.config import load
    from lhcnet.profiles import profile

    if params and name:
        raise LhcnetError("expected --params or --profile, not both")
    return profile(name) if name else load(params or Path("params.yaml"))


def _cluster(file: Path | None) -> Cluster:
    from pipeline.cluster import Cluster, load_cluster

    return load_cluster(file) if file else Cluster()


@app.command("compile")
def compile_(
    out: Annotated[Path, typer.Option(help="Pipeline to write (IR YAML).")] = Path("build/lhcnet.yaml"),
    params: Params = None,
    profile: Profile = None,
    cluster: ClusterFile = None,
    standalone: Standalone = False,
) -> None:
    """Compile the pipeline to IR YAML.

    The same settings give the same bytes.
    """
    config = _config(params, profile)  # a mistake is reported before kfp is imported
    from pipeline.compile import compile_pipeline

    compile_pipeline(config, _cluster(cluster), out, standalone=standalone)
    typer.echo(out)


@app.command()
def local(
    params: Params = None,
    profile: Profile = None,
    source: Annotated[str | None, typer.Option(help="FER2013: path or URI; default: data.source.")] = None,
    root: Annotated[Path, typer.Option(help="Folder of all runs; each gets a folder in it.")] = Path("runs"),
    standalone: Standalone = False,
    retries: Annotated[int, typer.Option(min=0, max=1000, help="How often a failed task is retried.")] = 0,
) -> None:
    """Run the pipeline on this machine.

    Uses kfp's local runner, one process for each task. Prints the comparison at the end.
    """
    config = _config(params, profile)
    from pipeline.local import run

    run(config, source, root, standalone=standalone, retries=retries)


@app.command()
def submit(
    host: Annotated[str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", show_envvar=True, help="Kubeflow endpoint.")],
    params: Params = None,
    profile: Profile = None,
    cluster: ClusterFile = None,
    source: Annotated[str | None, typer.Option(help="FER2013: s3://, gs:// or minio://; default: data.source.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of the run.")] = None,
    experiment: Annotated[str, typer.Option(help="Kubeflow experiment.")] = "lhcnet",
    token: Annotated[str | None, typer.Option(envvar="KF_PIPELINES_TOKEN", help="Bearer token.")] = None,
    standalone: Standalone = False,
) -> None:
    """Submit a run to a Kubeflow cluster.

    Prints the id of the run.
    """
    config = _config(params, profile)
    from pipeline.submit import submit_run

    run_id = submit_run(
        config,
        _cluster(cluster),
        source or config.data.source,
        host=host,
        namespace=namespace,
        experiment=experiment,
        token=token,
        standalone=standalone,
    )
    typer.echo(run_id)
