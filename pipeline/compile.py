"""Choice of the pipeline, and its compiled form."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp import compiler

from lhcnet.config import Config
from lhcnet.errors import LhcnetError
from lhcnet.io.atomic import atomic_file
from lhcnet.io.preflight import output_file
from pipeline.cluster import Cluster
from pipeline.graph import build
from pipeline.standalone import build_standalone


def build_pipeline(
    config: Config,
    cluster: Cluster,
    execution: str = "",
    *,
    lost: Mapping[str, int] | None = None,
    standalone: bool = False,
) -> Any:
    """Build the main pipeline, or the stand-alone one. Args and result are those of `pipeline.graph.build`."""
    return build_standalone(config, cluster, execution) if standalone else build(config, cluster, execution, lost)


def compiled(
    config: Config, cluster: Cluster, *, standalone: bool = False
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Compile the pipeline in memory: the pipeline spec, and the settings for Kubernetes if there are any."""
    pipeline = build_pipeline(config, cluster, standalone=standalone)
    # protobuf's maps have another order in every process
    ir, platform = (
        json.loads(json_format.MessageToJson(message, sort_keys=True))
        for message in (pipeline.pipeline_spec, pipeline.platform_spec)
    )
    return ir, platform or None


def compile_pipeline(config: Config, cluster: Cluster, out: Path, *, standalone: bool = False) -> None:
    """Write the pipeline as IR YAML to `out`; the same settings give the same bytes.

    Raises:
        LhcnetError: the name of `out` does not end in .yaml, or it cannot be written.
    """
    if out.suffix != ".yaml":
        raise LhcnetError(f"{out}: expected a name that ends in .yaml")
    output_file(out, None)
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, "pipeline.yaml")
        compiler.Compiler().compile(build_pipeline(config, cluster, standalone=standalone), str(compiled))
        lines = compiled.read_text(encoding="utf-8").splitlines(keepends=True)
    # kfp begins with comments that list the defaults, whose keys are in another order in every process
    text = "".join(dropwhile(lambda line: line.startswith("#"), lines))
    with atomic_file(out) as file:
        file.write_text(text, encoding="utf-8")
