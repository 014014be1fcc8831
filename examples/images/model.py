"""An image classifier: a small CNN, or any backbone of timm or transformers."""

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

import lossselect as ls
from lossselect.exceptions import ConfigError


def make_cnn(width=32):
    """Return a small CNN: images (N, 3, H, W) to features (N, 4 * width)."""
    layers, channels = [], 3
    for out in (width, 2 * width, 4 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class TransformersBackbone(nn.Module):
    """A vision model of transformers: images (N, 3, H, W) to features (N, width).

    Args:
        name: A local folder, or a name on the hub.
        pretrained: Whether to read the weights, or only the config.
    """

    def __init__(self, name, pretrained):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(name)
        self.model = AutoModel.from_pretrained(name) if pretrained else AutoModel.from_config(config)

    def forward(self, images):
        output = self.model(images)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state.mean(1) if pooled is None else pooled.flatten(1)


def make_backbone(name, pretrained):
    """Return the backbone "cnn", "timm:NAME" or "transformers:NAME", the last also of a local folder."""
    library, _, model = name.partition(":")
    if name == "cnn":
        return make_cnn()
    if library == "timm" and model:
        import timm

        return timm.create_model(model, pretrained=pretrained, num_classes=0)
    if library == "transformers" and model:
        return TransformersBackbone(model, pretrained)
    raise ConfigError(f"Expected the backbone cnn, timm:NAME or transformers:NAME, got {name!r}.")


def augment_with_torch(images):
    """Flip, zoom into and shift each image at random."""

    def draw(low, high):
        return torch.empty(len(images), device=images.device).uniform_(low, high)

    zoom = draw(0.75, 1)
    affine = torch.zeros(len(images), 2, 3, device=images.device)
    affine[:, 0, 0] = zoom * draw(-1, 1).sign()
    affine[:, 1, 1] = zoom
    affine[:, :, 2] = (1 - zoom[:, None]) * torch.stack([draw(-1, 1), draw(-1, 1)], 1)
    grid = F.affine_grid(affine, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@cache
def kornia_augmentation(size):
    """Return an augmentation of kornia, which draws other values for each image."""
    from kornia import augmentation as K

    return nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.6, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.2, 0.2, 0.2, p=0.8),
    )


@cache
def torchvision_augmentation(size):
    """Return an augmentation of torchvision, called for one image at a time so that they differ."""
    from torchvision.transforms import v2

    one = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),
        ]
    )
    return lambda images: torch.stack([one(image) for image in images])


AUGMENTATIONS = {
    "none": lambda images: images,
    "torch": augment_with_torch,
    "kornia": lambda images: kornia_augmentation(images.shape[-1])(images),
    "torchvision": lambda images: torchvision_augmentation(images.shape[-1])(images),
}
"""Functions of images (N, 3, H, W) in [0, 1] on any device."""


class ImageClassifier(ls.TaskModule):
    """A backbone, and a linear layer with the outputs of the task.

    Inputs of `forward` are images (N, 3, size, size) in [0, 1]. Batches contain them as uint8.

    Args:
        task: Any task.
        backbone: "cnn", "timm:NAME" or "transformers:NAME".
        pretrained: Whether to read the weights of a backbone of timm or transformers.
        size: Height and width of the images.
        augmentation: A key of `AUGMENTATIONS`.
        **kwargs: Passed to `TaskModule`.
    """

    def __init__(self, task, backbone="cnn", pretrained=True, size=64, augmentation="torch", **kwargs):
        super().__init__(task, **kwargs)
        self.augment = AUGMENTATIONS[augmentation]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.backbone = make_backbone(backbone, pretrained)
        with torch.no_grad():
            width = self.backbone.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.backbone.train()
        self.head = nn.Linear(width, self.task.num_outputs)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        image = batch["image"] / 255
        return {**batch, "image": self.augment(image) if self.trainer.training else image}

    def forward(self, image):
        return self.head(self.backbone((image - self.mean) / self.std))
