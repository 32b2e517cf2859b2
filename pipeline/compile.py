"""Choice of the pipeline, and its compiled form."""

from __future__ import annotations

from itertools import dropwhile
from pathlib import Path
from typing import Any

from kfp import compiler

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from pipeline.cluster import Cluster
from pipeline.graph import build
from pipeline.standalone import build_standalone


def build_pipeline(config: Config, cluster: Cluster, execution: str = "", *, standalone: bool = False) -> Any:
    """Build the main pipeline, or the stand-alone one. Args and result are those of `pipeline.graph.build`."""
    return (build_standalone if standalone else build)(config, cluster, execution)


def compile_pipeline(config: Config, cluster: Cluster, out: Path, *, standalone: bool = False) -> None:
    """Write the pipeline as IR YAML to `out`; the same settings give the same bytes.

    Raises:
        LhcnetError: the name of `out` does not end in .yaml.
    """
    if out.suffix != ".yaml":
        raise LhcnetError(f"{out}: expected a name that ends in .yaml")
    out.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build_pipeline(config, cluster, standalone=standalone), str(out))
    lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
    # kfp begins with comments that list the defaults, whose keys are in another order in every process
    out.write_text("".join(dropwhile(lambda line: line.startswith("#"), lines)), encoding="utf-8")
