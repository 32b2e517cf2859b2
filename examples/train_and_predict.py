"""Train a small LHC-Net on drawn faces, score it on the test split, and predict single images.

As in the paper, the ResNet is trained first; then the LHC modules are inserted and the whole network is trained
further. No files are read or written. About 20 seconds of one CPU core.

python examples/train_and_predict.py
"""

import argparse

from lhcnet.config import Compute, Stage
from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES, SPLITS
from lhcnet.inference.predict import predict
from lhcnet.inference.tta import plain_views
from lhcnet.models.lhcnet import build, insert_modules
from lhcnet.protocol.score import score
from lhcnet.runtime import open_device
from lhcnet.training.loop import DataSplit, fit

SIZE = 48  # pixels; the paper upscales to 224
# the maps behind the stem and the four stages are 12x12, 12x12, 6x6, 3x3 and 2x2 pixels at this size
MODULES = [
    {"heads": 8, "d": 9},
    {"heads": 8, "d": 9},
    {"heads": 6, "d": 6},
    {"heads": 3, "d": 3},
    {"heads": 1, "d": 4},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="drawn faces in all three splits together")
    parser.add_argument("--epochs", type=int, default=5, help="of the ResNet; the LHC-Net gets two more")
    args = parser.parse_args()

    faces = draw(args.images, seed=0)
    train, validation, test = (
        DataSplit(faces.images[faces.splits == split], faces.labels[faces.splits == split])
        for split in range(len(SPLITS))
    )
    device = open_device(Compute(device="cpu"))

    def further(stage: Stage) -> None:
        result = fit(network, train, validation, stage, seed=0, input_size=SIZE, device=device)
        for row in result.history:
            print(f"  epoch {row.epoch}: validation accuracy {row.val_accuracy:.3f}")
        print(f"  epoch {result.best_epoch} is kept: the best on validation")

    network = build(
        input_size=SIZE, depths=(1, 1, 1, 1), widths=(16, 32, 64, 128), head=(128,), bn_momentum=0.1, seed=0
    )
    print("ResNet")
    further(Stage(optimizer="adam", learning_rate=0.002, batch_size=32, epochs=args.epochs, patience=args.epochs))
    insert_modules(network, MODULES, seed=0)
    print("LHC-Net")  # its epoch 0 is the network right after the insertion
    further(Stage(optimizer="adam", learning_rate=0.001, batch_size=32, epochs=2, patience=2))

    probabilities = predict(network, test.images, plain_views(), input_size=SIZE, device=device)  # (N, 7)
    scored = score(probabilities, test.labels, split="test", views=1)
    low, high = scored.ci95
    print(f"test accuracy {scored.accuracy:.1%}, 95 % CI {low:.1%} to {high:.1%}, n = {scored.n}")
    for image in range(0, len(test.labels), len(test.labels) // 5):
        guess = probabilities[image].argmax()
        share = probabilities[image, guess]
        print(f"image {image}: {CLASSES[test.labels[image]]}, predicted {CLASSES[guess]} ({share:.0%})")


if __name__ == "__main__":
    main()
