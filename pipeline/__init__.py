"""The Kubeflow pipeline: graph, cluster settings, local run, submission. Commands: `lhcnet pipeline --help`."""
