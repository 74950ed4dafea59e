"""Masks learned by gradient descent in the forward pass: one parametrisation, from which the methods are recipes.

>>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
>>> scores, weights = tb.attach(network, tb.TopK(0.25))
>>> optimizer = torch.optim.SGD(scores, lr=0.1)
>>> network(torch.ones(3, 4)).square().mean().backward()
>>> optimizer.step()
>>> tb.refresh(network)
>>> tb.read(network), weights
(Mask(2 layers, 12 of 48 kept, density 0.25), [])
"""

from tombola.supermask.attach import attach
from tombola.supermask.callbacks import lightning_callback, transformers_callback
from tombola.supermask.concrete import BinaryConcrete
from tombola.supermask.continuous import Continuous
from tombola.supermask.detach import detach, make_permanent
from tombola.supermask.intermediate import Intermediate
from tombola.supermask.layers import Groups, plain_state
from tombola.supermask.masks import final_masks, read, refresh
from tombola.supermask.represent import Binary, Identity, Represent, Scaled, SignedConstant
from tombola.supermask.rules import Bernoulli, Coats, MaskRule, Round, Signed, Threshold, TopK
from tombola.supermask.weights import FROZEN, Dense, Frozen, Masked, SrSte, WeightRule

__all__ = [
    "FROZEN",
    "Bernoulli",
    "Binary",
    "BinaryConcrete",
    "Coats",
    "Continuous",
    "Dense",
    "Frozen",
    "Groups",
    "Identity",
    "Intermediate",
    "MaskRule",
    "Masked",
    "Represent",
    "Round",
    "Scaled",
    "Signed",
    "SignedConstant",
    "SrSte",
    "Threshold",
    "TopK",
    "WeightRule",
    "attach",
    "detach",
    "final_masks",
    "lightning_callback",
    "make_permanent",
    "plain_state",
    "read",
    "refresh",
    "transformers_callback",
]
