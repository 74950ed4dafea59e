"""A supermask learned by Lightning: attach the scores, give the trainer one callback, make the mask permanent."""

import lightning.pytorch as lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tombola as tb
from tombola.supermask.callbacks import lightning_callback


class Module(lightning.LightningModule):
    """Random weights that are never trained; what is learned is which of them to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 10))
        self.groups = tb.attach(self.net, tb.TopK(density=0.5))

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        """As in any module of Lightning."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The scores alone."""
        return torch.optim.SGD(self.groups.scores, lr=0.1, momentum=0.9)


def main(epochs: int = 10) -> tuple[tb.Mask, float]:
    """The mask, and the accuracy of the masked random network on the last 360 digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    lightning.seed_everything(0)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[lightning_callback()], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x[:1437], y[:1437]), batch_size=64, shuffle=True))
    mask = tb.make_permanent(module.net)  # plain layers again
    return mask, (module.net(x[1437:]).argmax(1) == y[1437:]).float().mean().item()


if __name__ == "__main__":
    mask, accuracy = main()
    print(mask.table())
    print(f"test accuracy {accuracy:.3f}")
