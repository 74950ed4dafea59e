"""One-shot pruning of the networks of transformers: GPT-2's transposed layers, tied embeddings, heads of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.prune.calibration import read
from tombola.prune.heads import attentions
from tombola.prune.layers import layers_of
from tombola.prune.watch import input_norms

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    model: nn.Module = transformers.GPT2LMHeadModel(config).eval()
    return model


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(20, (6, 8), generator=torch.Generator().manual_seed(0))


def test_gpt2s_layers_are_rows_of_outputs_and_tied_embeddings_stay_whole(gpt2: nn.Module, ids: Tensor) -> None:
    layers = layers_of(gpt2)
    assert not any("wte" in name or "lm_head" in name for name in layers)
    name = "transformer.h.0.mlp.c_fc.weight"
    norms = input_norms(gpt2, layers, read({"input_ids": ids}, gpt2, None, None, 0))[name]
    assert norms.shape == (8, 32)
    assert torch.equal(norms, norms[:, :1].expand(8, 32))
    pruned = tb.prune(gpt2, [{"input_ids": ids, "labels": ids}], density=0.5, criterion="wanda")
    assert set(pruned.mask[name].sum(0).tolist()) == {4}  # of every output's eight inputs
    assert torch.equal(pruned.model.lm_head.weight, gpt2.lm_head.weight)
    groups = tb.prune(gpt2, {"input_ids": ids}, criterion="sparse_gpt", pattern="2:4").mask[name]
    assert set(groups.t().reshape(-1, 4).sum(1).tolist()) == {2}


def test_a_head_of_gpt2_is_three_columns_of_one_and_rows_of_the_other(gpt2: nn.Module, ids: Tensor) -> None:
    pruned = tb.prune(gpt2, {"input_ids": ids}, density=0.5, pattern="head", criterion="wanda")
    packed, last = (pruned.mask[f"transformer.h.0.attn.{name}.weight"] for name in ("c_attn", "c_proj"))
    heads = packed.all(0).view(3, 2, 4).all(2)
    assert heads[0].sum() == 1
    assert bool((heads == heads[0]).all())
    assert torch.equal(last.all(1).view(2, 4).all(1), heads[0])
    with torch.no_grad():
        before = pruned.model(ids).logits
        pruned.model.transformer.h[0].attn.c_attn.bias.view(3, 2, 4)[2, ~heads[0]] = 50.0
        torch.testing.assert_close(pruned.model(ids).logits, before)


@pytest.mark.parametrize(
    ("kind", "settings", "heads"),
    [
        ("Bert", {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 8}, [4, 4]),
        ("DistilBert", {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}, [2]),
        ("ViT", {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}, [2]),
        (
            "Llama",
            {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 8, "vocab_size": 20},
            [2],
        ),
        ("T5", {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 20}, [2, 2, 2]),
        (
            "Wav2Vec2",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8,
             "num_conv_pos_embedding_groups": 2},
            [4],
        ),
    ],
)  # fmt: skip
def test_attention_is_found_by_its_names(kind: str, settings: dict[str, int], heads: list[int]) -> None:
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**settings))
    layers = layers_of(model)
    found = attentions(model, layers)
    assert [one.heads for one in found] == heads
    for one in found:
        for name in (*one.rows, *one.columns):
            counts = one.unit_of(layers[name]).flatten().bincount()
            assert counts.tolist() == [layers[name].weight.numel() // one.heads] * one.heads
