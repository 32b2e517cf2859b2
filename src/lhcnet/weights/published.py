"""The authors' published weights of LHC-Net and LHC-NetC, from the checkpoints of the reference implementation.

The reference implementation is written for TensorFlow 2.4 and saves with Keras' `save_weights`, or as a SavedModel
during training. Both name the variables after the attributes of its Python objects; the table below lists these names.
"""

from __future__ import annotations

from pathlib import Path

from lhcnet.errors import LhcnetError
from lhcnet.models.lhcnet import LHCNet, add_control
from lhcnet.models.resnetv2 import ResNetV2
from lhcnet.weights.keras import keras_state, unit_layers
from lhcnet.weights.tensorflow_checkpoint import find_checkpoint, read_checkpoint

BLOCKS = ("conv1", "conv2_3", "conv3_4", "conv4_6", "conv5_3")  # the blocks that contain LHC1 to LHC5
CONTROLLERS = tuple(f"controller{k}" for k in range(1, 6))  # only in LHC-NetC
NOT_THE_NETWORK = ("optimizer", "save_counter", "keras_api")

LAYERS = (
    {"bn_data": "conv1/bn1", "stem_conv": "conv1/conv1", "stem_bn": "conv1/bn2", "bn": "bn"}
    | {"hidden.0": "fc1", "hidden.1": "fc2", "logits": "fc3"}
    | unit_layers(
        lambda stage, unit, part: f"conv{stage + 1}_{unit}/{part}",
        {"bn1": "bn1", "conv1": "conv1", "bn2": "bn2", "conv2": "conv2", "shortcut": "convId"},
    )
    | {f"attention.{k}.lhc": f"{block}/LHC_Module/Wqk/{{head}}" for k, block in enumerate(BLOCKS)}
    | {f"attention.{k}.lhc.w2": f"{block}/LHC_Module/Wp" for k, block in enumerate(BLOCKS)}
    | {f"attention.{k}.lhc.conv": f"{block}/LHC_Module/Wv" for k, block in enumerate(BLOCKS)}
    | {f"attention.{k}": controller for k, controller in enumerate(CONTROLLERS)}
)


def open_published(path: Path, network: ResNetV2 | None = None) -> ResNetV2:
    """The published network in evaluation mode; an LHC-NetC if the checkpoint has control weights.

    Args:
        path: a checkpoint, as for `lhcnet.weights.tensorflow_checkpoint.find_checkpoint`.
        network: an LHC-Net of other sizes that gets the weights, instead of that of Table 2. When an error is raised,
            it has no new weights, but may have control weights added.

    Raises:
        LhcnetError: there is no checkpoint, it is damaged, or it does not have exactly the weights of the network.
    """
    prefix = find_checkpoint(path)
    arrays = {
        name: array for name, array in read_checkpoint(prefix).items() if name.partition("/")[0] not in NOT_THE_NETWORK
    }
    if network is None:
        network = LHCNet()
    if any(name.startswith(CONTROLLERS) for name in arrays):
        add_control(network)
    try:
        state = keras_state(network, arrays, LAYERS)
    except ValueError as error:
        raise LhcnetError(f"{prefix}.index: {error}") from None
    network.load_state_dict(network.state_dict() | state)
    return network.eval()
