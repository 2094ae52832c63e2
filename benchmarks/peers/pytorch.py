"""The same network in PyTorch, channels last: eager or `torch.compile`; and MONAI's and smp's."""

import contextlib
import importlib
import itertools
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers.setting import (
    DECODER_DROPOUT,
    EPSILON,
    LEARNING_RATE,
    Prepared,
    Setting,
    films,
)

torch: Any = importlib.import_module("torch")
nn = torch.nn


class PyTorchUNet(nn.Module):
    """The seed's U-Net."""

    def __init__(self, widths: tuple[int, ...], dropout: tuple[float, ...]) -> None:
        super().__init__()
        inputs = (1, *widths)
        self.encoders = nn.ModuleList(map(double_conv, inputs[:-2], widths[:-1]))
        self.bottleneck = double_conv(widths[-2], widths[-1])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(below, width, 3, stride=2, padding=1, output_padding=1)
            for width, below in itertools.pairwise(widths)
        )
        self.decoders = nn.ModuleList(double_conv(2 * width, width) for width in widths[:-1])
        self.drops = nn.ModuleList(map(nn.Dropout, dropout))
        self.decoder_drop = nn.Dropout(DECODER_DROPOUT)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Any) -> Any:
        """``[B, 1, H, W]`` to logits of that shape."""
        skips = []
        for encoder, drop in zip(self.encoders, self.drops, strict=True):
            x = encoder(x)
            skips.append(x)
            x = drop(nn.functional.max_pool2d(x, 2))
        x = self.bottleneck(x)
        for level in reversed(range(len(skips))):
            x = torch.cat([self.ups[level](x), skips[level]], 1)
            x = self.decoders[level](self.decoder_drop(x))
        return self.head(x)


def double_conv(inputs: int, features: int) -> Any:
    """Two 3x3 convolutions with ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, features, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(features, features, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def seeds(setting: Setting) -> Any:
    """The seed's network."""
    return PyTorchUNet(setting.widths, setting.dropout)


def monai(setting: Setting) -> Any:
    """MONAI's BasicUNet: dropout in each convolution, six widths, leaky ReLU, instance norm."""
    widths = (*setting.widths, setting.widths[0])
    nets = importlib.import_module("monai.networks.nets")
    return nets.BasicUNet(
        spatial_dims=2, in_channels=1, out_channels=1, features=widths, dropout=0.5
    )


def smp(setting: Setting) -> Any:
    """segmentation_models_pytorch's Unet on a ResNet-18, far larger, with batch norm."""
    library = importlib.import_module("segmentation_models_pytorch")
    return library.Unet(
        "resnet18",
        encoder_weights=None,
        in_channels=1,
        classes=1,
        decoder_channels=(256, 128, 64, 32, setting.widths[0]),
    )


NETWORKS: dict[str, Callable[[Setting], Any]] = {"seed": seeds, "monai": monai, "smp": smp}


def prepare(setting: Setting, *, network: str = "seed", compiled: bool = False) -> Prepared:
    """Builds the network and its step; bfloat16 by autocast.

    Args:
        setting: The conditions.
        network: Of `NETWORKS`.
        compiled: Whether by `torch.compile`.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = NETWORKS[network](setting).to(device, memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in model.parameters())
    model.train(setting.work == "train")
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=EPSILON)
    host = [
        (
            torch.from_numpy(images)
            .permute(0, 3, 1, 2)
            .contiguous(memory_format=torch.channels_last),
            torch.from_numpy(labels)[:, None],
        )
        for images, labels in zip(
            *films(setting, 1 if setting.data == "device" else 4), strict=True
        )
    ]
    placed = [tuple(array.to(device) for array in pair) for pair in host]
    batches = itertools.cycle(placed if setting.data == "device" else host)
    half = setting.dtype == "bfloat16"
    scope = torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext()

    def run() -> None:
        images, labels = (array.to(device, non_blocking=True) for array in next(batches))
        if setting.work == "predict":
            with torch.inference_mode(), scope:
                forward(images)
        else:
            optimizer.zero_grad(set_to_none=True)
            with scope:
                logits = forward(images)
            targets = labels.float()
            nn.functional.binary_cross_entropy_with_logits(logits.float(), targets).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    run()
    return Prepared(
        run,
        {
            "parameters": parameters,
            "compile_seconds": time.perf_counter() - began,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "versions": {"torch": torch.__version__},
        },
    )
