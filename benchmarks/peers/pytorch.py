"""The network in PyTorch with channels last, eager or by `torch.compile`."""

import contextlib
import importlib
import itertools
import time
from typing import Any

from benchmarks.peers.setting import DECODER_DROPOUT, EPSILON, LEARNING_RATE, Setting

torch: Any = importlib.import_module("torch")
nn = torch.nn


class PyTorchUNet(nn.Module):
    """The U-Net of the Keras baseline."""

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


def double_conv(inputs: int, channels: int) -> Any:
    """Two 3x3 convolutions with ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def prepare(*, compiled: bool = False, **settings: Any) -> Any:
    """Makes the network and its step; bfloat16 by autocast."""
    setting = Setting(**settings)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PyTorchUNet(setting.widths, setting.dropout)
    model = model.to(device, memory_format=torch.channels_last).train(setting.work == "train")
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=EPSILON)
    arrays = map(torch.from_numpy, setting.batch_arrays())
    images, labels = (array.to(device) for array in arrays)
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    targets = labels[:, None].float()
    bfloat16 = setting.dtype == "bfloat16"
    scope = torch.autocast(device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()

    def run() -> None:
        if setting.work == "predict":
            with torch.inference_mode(), scope:
                forward(images)
        else:
            optimizer.zero_grad(set_to_none=True)
            with scope:
                logits = forward(images)
            nn.functional.binary_cross_entropy_with_logits(logits.float(), targets).backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    began = time.perf_counter()
    run()
    return setting.prepared(
        run,
        sum(parameter.numel() for parameter in model.parameters()),
        compile_seconds=time.perf_counter() - began,
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
    )
