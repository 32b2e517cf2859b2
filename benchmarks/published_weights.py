"""Proof that published weights are read as Keras reads them: the same outputs, without the originals.

`write` builds files of exactly the published formats with random weights, and what Keras computes with them: the
ImageNet start (the package image-classifiers), and LHC-Net and LHC-NetC under the attribute names of the reference
implementation. `compare` opens them here. The two halves need different Pythons:

    python3.8 -m venv /tmp/keras && /tmp/keras/bin/pip install tensorflow==2.4.* image-classifiers
    /tmp/keras/bin/python benchmarks/published_weights.py write /tmp/weights
    .venv/bin/python benchmarks/published_weights.py compare /tmp/weights

A recent TensorFlow does as well: pip install tensorflow tf_keras image-classifiers, then TF_USE_LEGACY_KERAS=1.
`write --tiny FOLDER` makes the same files for networks of a few channels and packs them: tests/golden/published.zip.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np

FULL = {
    "input_size": 224,
    "widths": (64, 128, 256, 512),
    "head": (4096, 1024),
    "modules": ((8, 196), (8, 196), (7, 56), (7, 14), (1, 25)),  # heads and d
}
TINY = {
    "input_size": 48,
    "widths": (2, 4, 5, 6),  # not 3, by which draw_weights knows the pixels
    "head": (16, 12),
    "modules": ((8, 3), (4, 2), (2, 4), (3, 2), (1, 3)),
}
DEPTHS = (3, 4, 6, 3)
BN = {"epsilon": 2e-5, "momentum": 0.99}


def network(sizes, control, keras, tf):
    """LHC-Net or LHC-NetC in Keras. The names of the attributes are the reference's: they are the format."""

    class Module(keras.layers.Layer):
        def __init__(self, channels, heads, d):
            super().__init__()
            self.heads, self.d = heads, d
            self.Wqk = [keras.layers.Dense(d) for _ in range(heads)]
            self.Wp = keras.layers.Dense(channels, activation="sigmoid")
            self.Wv = keras.layers.Conv2D(channels, 3, padding="same")

        def call(self, x, factor=1.0):
            _, height, width, channels = x.shape

            def split(z):  # (B, H, W, C) -> (B, heads, C, L)
                z = tf.reshape(z, (-1, self.heads, height * width // self.heads, channels))
                return tf.transpose(z, (0, 1, 3, 2))

            def embed(z):
                return tf.stack([dense(z[:, h]) for h, dense in enumerate(self.Wqk)], axis=1)

            q = embed(split(tf.nn.avg_pool2d(x, 3, 1, "SAME")))
            k = embed(split(tf.nn.max_pool2d(x, 3, 1, "SAME")))
            v = split(tf.nn.avg_pool2d(self.Wv(x), 3, 1, "SAME"))
            scores = tf.matmul(q, k, transpose_b=True)
            T = self.Wp(tf.reduce_mean(scores, axis=3))[..., None]
            A = tf.matmul(tf.nn.softmax(scores / tf.pow(float(self.d), 1.0 + T)), v)
            return x + factor * tf.reshape(tf.transpose(A, (0, 1, 3, 2)), tf.shape(x))

    class Stem(keras.Model):
        def __init__(self, module):
            super().__init__()
            self.bn1 = keras.layers.BatchNormalization(scale=False, **BN)
            self.conv1 = keras.layers.Conv2D(sizes["widths"][0], 7, 2, use_bias=False)
            self.bn2 = keras.layers.BatchNormalization(**BN)
            self.LHC_Module = Module(sizes["widths"][0], *module)

        def call(self, x, factor=1.0):
            x = self.conv1(tf.pad(self.bn1(x), ((0, 0), (3, 3), (3, 3), (0, 0))))
            x = tf.pad(tf.nn.relu(self.bn2(x)), ((0, 0), (1, 1), (1, 1), (0, 0)))
            return self.LHC_Module(tf.nn.max_pool2d(x, 3, 2, "VALID"), factor)

    class Block(keras.Model):
        def __init__(self, width, stride, first, module):
            super().__init__()
            self.bn1 = keras.layers.BatchNormalization(**BN)
            self.conv1 = keras.layers.Conv2D(width, 3, stride, use_bias=False)
            self.bn2 = keras.layers.BatchNormalization(**BN)
            self.conv2 = keras.layers.Conv2D(width, 3, use_bias=False)
            self.convId = keras.layers.Conv2D(width, 1, stride, use_bias=False) if first else None
            self.LHC_Module = Module(width, *module) if module else None

        def call(self, x, factor=1.0):
            around = ((0, 0), (1, 1), (1, 1), (0, 0))
            a = tf.nn.relu(self.bn1(x))
            y = self.conv2(tf.pad(tf.nn.relu(self.bn2(self.conv1(tf.pad(a, around)))), around))
            y += self.convId(a) if self.convId else x
            return self.LHC_Module(y, factor) if self.LHC_Module else y

    class Controller(keras.layers.Layer):
        def __init__(self, w):
            super().__init__()
            self.w = tf.Variable(w, dtype="float32")

        def call(self, block, x):
            return block(x, 1.0 + tf.tanh(self.w))

    class Network(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv1 = Stem(sizes["modules"][0])
            for stage, depth in enumerate(DEPTHS):
                for unit in range(depth):
                    first, last = unit == 0, unit == depth - 1
                    stride = 2 if first and stage else 1
                    module = sizes["modules"][stage + 1] if last else None
                    block = Block(sizes["widths"][stage], stride, first, module)
                    setattr(self, f"conv{stage + 2}_{unit + 1}", block)
            self.bn = keras.layers.BatchNormalization(**BN)
            self.fc1 = keras.layers.Dense(sizes["head"][0], activation="relu")
            self.fc2 = keras.layers.Dense(sizes["head"][1], activation="relu")
            self.fc3 = keras.layers.Dense(7, activation="softmax")
            if control:
                for k, w in enumerate((0.3, -0.2, 0.1, -1.0, -0.5)):
                    setattr(self, f"controller{k + 1}", Controller(w))

        def features(self, x):
            def controlled(k, block, x):
                return getattr(self, f"controller{k}")(block, x) if control else block(x)

            x = controlled(1, self.conv1, x)
            for stage, depth in enumerate(DEPTHS):
                for unit in range(depth - 1):
                    x = getattr(self, f"conv{stage + 2}_{unit + 1}")(x)
                x = controlled(stage + 2, getattr(self, f"conv{stage + 2}_{depth}"), x)
            return tf.nn.relu(self.bn(x))

        def call(self, x):
            return self.fc3(self.fc2(self.fc1(tf.reduce_mean(self.features(x), (1, 2)))))

    return Network()


def draw_weights(model, rng):
    """Random weights, moving statistics too, that keep activations near 1 through all layers."""
    for variable in model.weights:
        shape, leaf = tuple(variable.shape), variable.name.split("/")[-1].split(":")[0]
        if not shape:
            continue  # the control weights
        noise = rng.standard_normal(shape)
        if leaf == "kernel":
            noise *= (1.0 if len(shape) == 4 else 2.0) ** 0.5 / np.prod(shape[:-1]) ** 0.5
        else:
            noise = 0.1 * (np.abs(noise) if leaf == "moving_variance" else noise)
            noise += leaf in ("gamma", "moving_variance")
            if shape == (3,):  # raw pixels, 0..255
                noise = {"moving_mean": 127.5 + 10 * noise, "moving_variance": 4096 * noise}.get(leaf, noise)
        variable.assign(noise.astype(np.float32))


def write(folder, tiny):
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf
    from classification_models.tfkeras import Classifiers

    keras, sizes = tf.keras, TINY if tiny else FULL
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rng = np.random.default_rng(0)
    side = sizes["input_size"]
    coarse = rng.integers(0, 256, (2, 4, 4, 3)).repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    images = ((coarse + rng.integers(0, 256, (2, side, side, 3))) // 2).astype(np.float32)
    expected = {"images": images.astype(np.uint8)}

    backbone = Classifiers.get("resnet34")[0]((224, 224, 3), include_top=False, weights=None)
    if tiny:  # the same network, every convolution with a 32nd of its channels
        config = backbone.get_config()
        for layer in config["layers"]:
            settings = layer["config"]
            if "filters" in settings:
                settings["filters"] //= 32
            if "batch_input_shape" in settings:
                settings["batch_input_shape"] = (None, side, side, 3)
        backbone = keras.Model.from_config(config)
    draw_weights(backbone, rng)
    folder.mkdir(parents=True, exist_ok=True)
    backbone.save_weights(str(folder / "resnet34_imagenet_1000_no_top.h5"))
    if not tiny:
        backbone.save(str(folder / "whole_model.h5"))
    expected["backbone/features"] = backbone(images, training=False).numpy()

    for name, file in (("LHC_Net", "LHC_Net"), ("LHC_NetC", "LHC_Net_Controller")):
        model = network(sizes, name == "LHC_NetC", keras, tf)
        model(images)
        draw_weights(model, rng)
        if name == "LHC_NetC":  # trained like the reference's, so that the optimiser is in the checkpoint
            for layer in model.layers:
                layer.trainable = layer.name.startswith("controller")
            model.compile("adam", "categorical_crossentropy")
            model.fit(images, np.eye(7, dtype=np.float32)[:2], verbose=0)
        model.save_weights(str(folder / name / file))
        if name == "LHC_Net" and tf.__version__.startswith("2.4."):
            model.save(str(folder / "SavedModel"))  # as the reference saves while it trains
        expected[f"{name}/features"] = model.features(tf.constant(images)).numpy()
        expected[f"{name}/probabilities"] = model(images, training=False).numpy()
    apart = {name: np.ptp(values, axis=0).max() for name, values in expected.items()}
    if min(apart.values()) < 1e-3:
        sys.exit(f"the outputs do not depend on the image, such weights prove nothing: {apart}")
    np.savez_compressed(folder / "expected.npz", **expected)
    if tiny:
        for file in folder.rglob("*.pb"):
            file.unlink()  # the graph of operations, which nothing here reads
        shutil.make_archive(str(folder), "zip", str(folder))
    print(f"{folder}: written by TensorFlow {tf.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}")


def compare(folder):
    import torch

    from lhcnet.models.resnetv2 import ResNetV2
    from lhcnet.weights.imagenet import load_start
    from lhcnet.weights.published import open_published

    torch.set_num_threads(1)
    with np.load(folder / "expected.npz") as file:
        expected = dict(file)
    images = torch.from_numpy(expected["images"]).permute(0, 3, 1, 2).float()
    print("| file | what | largest difference | largest value |\n| --- | --- | --- | --- |")

    def row(file, what, ours, name):
        theirs = expected[f"{name}/{what}"]
        apart, largest = np.abs(ours - theirs).max(), np.abs(theirs).max()
        print(f"| {file} | {what} | {apart:.1e} | {largest:.2f} |")
        if apart > 1e-4 * max(largest, 1):
            sys.exit("more than 1e-4 apart")

    with torch.inference_mode():
        for file in ("resnet34_imagenet_1000_no_top.h5", "whole_model.h5"):
            backbone, _ = load_start(str(folder / file), ResNetV2(seed=0).eval())
            row(file, "features", backbone.forward_features(images).permute(0, 2, 3, 1).numpy(), "backbone")
        for file, name in (("LHC_Net/LHC_Net", "LHC_Net"), ("SavedModel", "LHC_Net"), ("LHC_NetC", "LHC_NetC")):
            if not list(folder.glob(f"{file}*")):
                continue
            model = open_published(folder / file)
            row(file, "features", model.forward_features(images).permute(0, 2, 3, 1).numpy(), name)
            row(file, "probabilities", model(images).softmax(1).numpy(), name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("write", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small widths, for the tests")
    arguments = parser.parse_args()
    if arguments.step == "write":
        write(arguments.folder, arguments.tiny)
    else:
        compare(arguments.folder)
