"""Insert LHC into torchvision's ResNet18, and take one training step on drawn faces.

python examples/lhc_in_torchvision.py
"""

import torch
import torch.nn.functional as F
from torchvision.models import resnet18

from lhcnet.data.drawn_faces import draw
from lhcnet.data.fer2013 import CLASSES
from lhcnet.models.insertion import insert_lhc

BATCH = 16


def main() -> None:
    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=len(CLASSES))
    before = sum(p.numel() for p in network.parameters())

    # the example batch says which shapes the layers see; the settings of each module are derived from it
    example = torch.zeros(1, 3, 96, 96)
    network.eval()
    plain = network(example)
    insert_lhc(network, ["layer1", "layer2", "layer3"], example, seed=0)
    added = sum(p.numel() for p in network.parameters()) - before
    print(f"LHC adds {added:,} parameters to {before:,}")
    # tanh(w) is 0 until the first step: the network still computes what it computed before
    print(f"outputs unchanged by the insertion: {torch.equal(network(example), plain)}")

    faces = draw(200, seed=0)
    rows = torch.randperm(len(faces.labels))[:BATCH].numpy()
    grey = torch.from_numpy(faces.images[rows]).float()[:, None] / 255  # (B, 1, 48, 48)
    images = F.interpolate(grey, size=(96, 96), mode="bilinear").expand(-1, 3, -1, -1)  # (B, 3, 96, 96)
    labels = torch.from_numpy(faces.labels[rows]).long()

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loss = F.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = F.cross_entropy(network(images), labels)
    print(f"loss before the step {loss.item():.4f}, after it {after.item():.4f}")
    for name in ("layer1", "layer2", "layer3"):
        print(f"w of {name}: {network.get_submodule(name).attention.w.item():+.6f}")


if __name__ == "__main__":
    main()
