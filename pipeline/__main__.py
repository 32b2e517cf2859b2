"""Compile, run on this machine, submit: `python -m pipeline compile|local|submit`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lhcnet.config import Config, load
from lhcnet.errors import LhcnetError
from lhcnet.profiles import profile
from pipeline.cluster import Cluster, load_cluster

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Params = Annotated[Path | None, typer.Option(help="A params.yaml.")]
Profile = Annotated[str | None, typer.Option(help="paper, cpu or demo, instead of --params.")]
Standalone = Annotated[bool, typer.Option("--standalone", help="The stand-alone pipeline, not sets A, B and C.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="Cluster settings (YAML): image, GPU, resources.")]


def _config(params: Path | None, name: str | None) -> Config:
    if params and name:
        raise LhcnetError("expected --params or --profile, not both")
    return profile(name) if name else load(params or Path("params.yaml"))


def _cluster(file: Path | None) -> Cluster:
    return load_cluster(file) if file else Cluster()


@app.command()
def compile(  # the word of the trade
    out: Path = Path("build/lhcnet.yaml"),
    params: Params = None,
    profile: Profile = None,
    cluster: ClusterFile = None,
    standalone: Standalone = False,
) -> None:
    """Compile the pipeline to IR YAML; the same settings give the same bytes."""
    from kfp import compiler

    from pipeline.graph import build
    from pipeline.standalone import build_standalone

    graph = build_standalone if standalone else build
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(graph(_config(params, profile), _cluster(cluster)), str(out))
    typer.echo(out)


@app.command()
def local(
    params: Params = None,
    profile: Profile = None,
    source: Annotated[Path | None, typer.Option(help="FER2013; default: data.source.")] = None,
    root: Annotated[Path, typer.Option(help="Where the artifacts of the run go.")] = Path("runs"),
    standalone: Standalone = False,
    retries: Annotated[int, typer.Option(min=0, help="How often a task that fails is tried again.")] = 0,
) -> None:
    """Run the pipeline on this machine with kfp's local runner."""
    from pipeline.local import run

    run(_config(params, profile), source, root, standalone=standalone, retries=retries)


@app.command()
def submit(
    params: Params = None,
    profile: Profile = None,
    cluster: ClusterFile = None,
    host: Annotated[str | None, typer.Option(help="Kubeflow endpoint; default: KF_PIPELINES_ENDPOINT.")] = None,
    source: Annotated[str | None, typer.Option(help="FER2013: s3://, gs:// or minio://; default: data.source.")] = None,
    namespace: Annotated[str | None, typer.Option()] = None,
    experiment: Annotated[str, typer.Option()] = "lhcnet",
    token: Annotated[str | None, typer.Option(envvar="KF_PIPELINES_TOKEN", help="Bearer token.")] = None,
    standalone: Standalone = False,
) -> None:
    """Submit a run to a Kubeflow cluster and print its id."""
    from pipeline.submit import submit_run

    host = host or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host:
        raise LhcnetError("submit: expected --host or KF_PIPELINES_ENDPOINT")
    config = _config(params, profile)
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


if __name__ == "__main__":
    try:
        app()
    except LhcnetError as error:
        typer.echo(f"pipeline: {error}", err=True)
        sys.exit(1)
