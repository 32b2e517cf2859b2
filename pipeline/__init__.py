"""The Kubeflow pipeline: graph, cluster settings, local run, submission. `python -m pipeline --help`."""
