"""Image transforms on batches: upscaling, augmentation, and the operations of test-time augmentation.

Images have one grey channel: (B, 1, S, S) float32, values 0..255, neither rounded nor clipped unless the function says
so. Positions are in pixels, with pixel centres at whole numbers; outside the image, edge pixels are repeated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def upscale(images: Tensor, size: int, *, truncate: bool) -> Tensor:
    """Resize stored images to the network's resolution (section 4.1).

    Bilinear, half-pixel centres, no antialias: bit for bit as `tf.image.resize`. At `size == h == w` the pixel
    values do not change.

    Args:
        images: (B, h, w) uint8.
        size: side of the result in pixels.
        truncate: floor to whole grey values. For training images only: the paper stored those as JPEG, which has whole
            values, but not validation and test images.

    Returns:
        (B, 1, size, size) float32.

    Raises:
        ValueError: images are not (B, h, w) uint8.
    """
    if images.dim() != 3 or images.dtype != torch.uint8:
        raise ValueError(f"expected (B, h, w) uint8 images, not {tuple(images.shape)} {images.dtype}")
    resized = resize(images[:, None].float(), size)
    return resized.floor_() if truncate else resized


def resize(images: Tensor, size: int) -> Tensor:
    """Resize (B, 1, h, w) to (B, 1, size, size): bilinear, half-pixel centres, no antialias."""
    for dim in (3, 2):  # columns first, as in TensorFlow: the order affects the last bit, and so the floor
        old = images.shape[dim]
        if old != size:
            index = torch.arange(size, dtype=torch.float32, device=images.device)
            images = sample_axis(images, (index + 0.5) * (old / size) - 0.5, dim)
    return images


def sample_axis(images: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Linear interpolation along one axis `dim`: output i is the input at `positions[i]` (in pixels)."""
    positions = positions.clamp(0, images.shape[dim] - 1)
    low = images.index_select(dim, positions.floor().long())
    high = images.index_select(dim, positions.ceil().long())
    fraction = positions - positions.floor()
    return low + (high - low) * (fraction if dim == 3 else fraction[:, None])


def warp(images: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """Affine transform by one bilinear resampling: the output at u is the input at `linear @ u + shift`.

    u is (row, column), in pixels from the image's centre ((S-1)/2, (S-1)/2).

    Args:
        images: (B, 1, S, S).
        linear: (B, 2, 2), or (1, 2, 2) for all images.
        shift: (B, 2) or (1, 2), in pixels.
    """
    size = images.shape[-1]
    half = size / 2  # affine_grid takes (x, y) with -1 and 1 at the image's outer edges
    theta = torch.cat([linear.flip(1, 2), shift.flip(1)[..., None] / half], dim=2).to(images)  # (B or 1, 2, 3)
    grid = F.affine_grid(theta, [len(theta), 1, size, size], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)  # (B, S, S, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def draw_affine(
    n: int,
    *,
    rotation: float,
    shift: float,
    zoom: float,
    flip: bool,
    size: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw random augmentation parameters for n images (Tables 3-5), distributed as in Keras' ImageDataGenerator.

    Args:
        rotation: largest angle in degrees.
        shift: largest shift along each axis, as a fraction of the side.
        zoom: each axis is zoomed by its own factor from [1 - zoom, 1 + zoom].
        flip: whether half of the images are mirrored.
        size: side of the images in pixels.
        generator: the only source of randomness; it advances equally for all settings.

    Returns:
        (n, 6): theta (degrees), tx and ty (pixels, along rows and columns), zx and zy, flip (0 or 1).
    """
    u = torch.rand(n, 6, generator=generator, device=generator.device)
    low = torch.tensor([-rotation, -shift * size, -shift * size, 1 - zoom, 1 - zoom, 0], device=u.device)
    high = torch.tensor([rotation, shift * size, shift * size, 1 + zoom, 1 + zoom, 1], device=u.device)
    params = low + (high - low) * u
    params[:, 5] = (u[:, 5] < 0.5) & flip
    return params


def affine(images: Tensor, params: Tensor) -> Tensor:
    """Rotate, shift and zoom by one bilinear resampling, then mirror, as keras-preprocessing 1.1.2.

    Signs are Keras': theta > 0 rotates clockwise, tx > 0 moves the image up, ty > 0 left, zx and zy > 1 zoom out.

    Args:
        images: (B, 1, S, S).
        params: (B, 6) from `draw_affine`.
    """
    theta, tx, ty, zx, zy, flip = params.double().unbind(1)
    cos, sin = torch.cos(theta.deg2rad()), torch.sin(theta.deg2rad())
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)  # (B, 2, 2) on (row, column)
    linear = turn * torch.stack([zx, zy], dim=1)[:, None]  # turn @ diag(zx, zy)
    moved = (turn @ torch.stack([tx, ty], dim=1)[..., None]).squeeze(2)  # (B, 2)
    # Keras rotates and zooms about (S/2 + 0.5, S/2 + 0.5), one pixel below and right of the true centre.
    return mirror(warp(images, linear, moved + 1 - linear.sum(dim=2)), flip)


def mirror(images: Tensor, flip: Tensor) -> Tensor:
    """Mirror (left and right exchanged) those of the images (B, 1, S, S) whose flip (B,) is not zero."""
    return torch.where(flip.bool()[:, None, None, None], images.flip(3), images)


def adjust(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then contrast, and clip to 0..255, as torchvision's ColorJitter.

    Args:
        images: (B, 1, S, S).
        brightness: (B,), factors of the grey values.
        contrast: (B,), factors of their distance from the mean of the image.
    """
    images = (images * brightness[:, None, None, None]).clamp(0, 255)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + (images - mean) * contrast[:, None, None, None]).clamp(0, 255)


def draw_boxes(n: int, *, probability: float, size: int, generator: torch.Generator) -> Tensor:
    """Draw the boxes of random erasing (Zhong et al., AAAI 2020), distributed as torchvision's RandomErasing.

    The area is 2 % to 33 % of the image, the ratio of the sides 0.3 to 3.3. A side is at most that of the image, where
    torchvision draws again.

    Args:
        n: number of images.
        probability: of an image to be erased.
        size: S, side of the images in pixels.
        generator: the only source of randomness.

    Returns:
        (n, 4) int64: top, bottom, left, right; an empty box for an image that is not erased.
    """
    erased, area, ratio, row, column = torch.rand(n, 5, generator=generator, dtype=torch.float64).unbind(1)
    area = (0.02 + (0.33 - 0.02) * area) * size**2
    ratio = 0.3 * (3.3 / 0.3) ** ratio
    height, width = (side.sqrt().round().clamp(1, size) for side in (area * ratio, area / ratio))
    top, left = (row * (size - height + 1)).floor(), (column * (size - width + 1)).floor()
    boxes = torch.stack([top, top + height, left, left + width], dim=1)
    return (boxes * (erased < probability)[:, None]).long()


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill a box of each image with the image's mean grey value.

    Args:
        images: (B, 1, S, S).
        boxes: (B, 4), from `draw_boxes`.
    """
    index = torch.arange(images.shape[-1], device=images.device)
    top, bottom, left, right = boxes[:, :, None].unbind(1)  # (B, 1)
    rows, columns = (index >= top) & (index < bottom), (index >= left) & (index < right)  # (B, S)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, S, S)
    return torch.where(inside, images.mean(dim=(1, 2, 3), keepdim=True), images)
