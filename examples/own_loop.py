"""Iterative magnitude pruning in a loop of your own: only the mask, what holds it, and the ticket are Tombola's."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola.ticket.origin import Origin


def main(epochs: int = 10, levels: int = 3) -> tuple[tb.Ticket, float]:
    """The ticket, and its accuracy on the last 360 digits."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def train() -> None:
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
        for _ in range(epochs):
            for batch in torch.randperm(1437).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[batch]), y[batch]).backward()
                optimizer.step()

    start = copy.deepcopy(net.state_dict())
    mask = tb.Mask.full(tb.prunable(net))
    train()
    for level in range(1, levels + 1):
        scores = {name: weight.detach().abs() for name, weight in tb.prunable(net).items()}
        mask = tb.select(scores, density=0.5**level, scope="global", candidates=mask)  # half of what is left
        net.load_state_dict(start)  # rewind
        with tb.hold(net, mask):  # pruned weights stay 0, whatever the optimiser does
            train()
    accuracy = (net(x[1437:]).argmax(1) == y[1437:]).float().mean().item()
    origin = Origin.stored(start)
    ticket = tb.Ticket.from_models(origin=origin, mask=mask, final_state=net.state_dict(), provenance={})
    return ticket, accuracy


if __name__ == "__main__":
    ticket, accuracy = main()
    ticket.save("own-loop.ticket")
    print(ticket.mask.table())
    print(f"test accuracy {accuracy:.3f}")
