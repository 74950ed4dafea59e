"""A random forest of scikit-learn, fitted and measured."""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.results.double_descent import DescentFit
from tombola.rng.seeds import derive
from tombola.study.double_descent.examples import Examples


def forest_fit(examples: Examples, leaves: int, trees: int, seed: int) -> DescentFit:
    """A forest without bootstrap; its trees are the first of a larger forest's with the same seed."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise TombolaError(f"forests need scikit-learn, which cannot be imported ({error}); install it") from None
    assert examples.train.labels is not None
    forest = RandomForestClassifier(
        n_estimators=trees,
        max_leaf_nodes=leaves,
        bootstrap=False,
        max_features="sqrt",
        random_state=derive(seed, "forest") % 2**32,
    )
    forest.fit(examples.train.x.numpy(), examples.train.labels.numpy())

    def outputs(x: Tensor) -> Tensor:
        shares = torch.zeros(len(x), examples.outputs, dtype=torch.float64, device="cpu")
        shares[:, torch.from_numpy(forest.classes_)] = torch.from_numpy(forest.predict_proba(x.numpy()))
        return shares

    grown = sum(int(tree.get_n_leaves()) for tree in forest.estimators_)
    on_train, on_test = outputs(examples.train.x), outputs(examples.test.x)
    return examples.measured(on_train, on_test, None, parameters=grown, leaves=leaves, trees=trees)
