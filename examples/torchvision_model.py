"""A ticket of a network from torchvision, on images in memory: the same call for any module and any data."""

import torch
from sklearn.datasets import load_digits
from torchvision.models import resnet18
from torchvision.transforms.v2 import functional as images

import tombola as tb
from tombola.data.splits import make_splits


def data(size: int = 32, count: int = 1797) -> tb.data.splits.Splits:
    """Digits as RGB images."""
    x, y = load_digits(return_X_y=True)
    pixels = torch.tensor(x[:count] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    pixels = images.resize(pixels, [size, size], antialias=True).expand(-1, 3, -1, -1).contiguous()
    labels, last = torch.tensor(y[:count]), count * 4 // 5
    return make_splits((pixels[:last], labels[:last]), test=(pixels[last:], labels[last:]), name="digits-rgb")


def main(length: str = "2ep", size: int = 32, count: int = 1797) -> tb.Ticket:
    """A ticket drawn by SNIP before any training. Pretrained weights would be its origin just as well."""
    torch.manual_seed(0)
    model = resnet18(num_classes=10)
    method = tb.AtInit(criterion="snip", density=0.1)
    recipe = {"length": length, "batch_size": 64, "lr": 0.05, "eval_every": length}
    return tb.find(model, data(size, count), method, recipe=recipe)


if __name__ == "__main__":
    ticket = main()
    ticket.save("resnet-18.ticket")
    print(ticket.mask.table())
    small = ticket.build(model=resnet18(num_classes=10))  # a plain ResNet-18, pruned weights exactly 0
