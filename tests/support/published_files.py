"""The files of `golden/published.zip`, written by Keras (golden/README_published.md says how)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lhcnet.models.resnetv2 import ResNetV2

SIZES = {"input_size": 48, "widths": (2, 4, 5, 6), "head": (16, 12)}
MODULES = [{"heads": heads, "d": d} for heads, d in ((8, 3), (4, 2), (2, 4), (3, 2), (1, 3))]


def close_to_keras(published: Path, name: str, network: ResNetV2) -> None:
    """The network gives what Keras recorded under that name: features, and probabilities where there are any."""
    with np.load(published / "expected.npz") as file:
        expected = {key.partition("/")[2]: file[key] for key in file.files if key.startswith(f"{name}/")}
        images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        ours = {"features": network.forward_features(images).permute(0, 2, 3, 1)}
        if "probabilities" in expected:
            ours["probabilities"] = network(images).softmax(1)
    assert ours.keys() == expected.keys()
    for what, tensor in ours.items():
        atol = 5e-6 * max(1.0, float(np.abs(expected[what]).max()))
        torch.testing.assert_close(tensor, torch.from_numpy(expected[what]), rtol=0, atol=atol)
