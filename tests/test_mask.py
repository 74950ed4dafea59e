from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tombola.errors import TombolaError
from tombola.mask import Mask, disconnected
from tombola.parameters import named_parameter, parameters_by_name, prunable, unwrap


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class MyLinear(nn.Linear):
    pass


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), MyLinear(8, 3), nn.LayerNorm(3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5)
        self.b.weight = self.a.weight
        self.head.weight = self.embed.weight


# ---- names


def test_prunable_takes_weights_of_linear_and_convolution_only() -> None:
    assert list(prunable(small())) == ["0.weight", "3.weight"]
    every = nn.ModuleList([nn.Conv1d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.ConvTranspose2d(1, 1, 1), nn.Bilinear(2, 2, 2)])
    assert list(prunable(every)) == ["0.weight", "1.weight", "2.weight"]


def test_attention_projections_packed_and_apart() -> None:
    packed = nn.MultiheadAttention(4, 2)
    assert {n: tuple(p.shape) for n, p in prunable(packed).items()} == {
        "in_proj_weight": (12, 4),
        "out_proj.weight": (4, 4),
    }
    apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=5)
    assert list(prunable(apart)) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_tied_weights_first_name_owns_and_embedding_keeps_its_linear() -> None:
    model = Tied()
    assert list(prunable(model)) == ["a.weight"]
    assert list(prunable(model, include=["embed.weight"])) == ["embed.weight", "a.weight"]
    assert prunable(model, exclude=["b.weight"]) == {}  # another name of the same tensor
    assert named_parameter(model, "b.weight") is model.a.weight
    assert "b.weight" not in parameters_by_name(model)
    assert "b.weight" in parameters_by_name(model, tied=True)


def test_include_and_exclude() -> None:
    assert list(prunable(small(), include=["*.bias"], exclude=["1.*", "4.bias"])) == [
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    ]
    with pytest.raises(TombolaError, match=r"exclude pattern '3\.wieght' matches no parameter.*3\.weight"):
        prunable(small(), exclude=["3.wieght"])
    with pytest.raises(TombolaError, match="include pattern"):
        prunable(small(), include=["fc*"])


def test_lazy_layer_is_an_error() -> None:
    with pytest.raises(TombolaError, match="run one batch"):
        prunable(nn.Sequential(nn.LazyLinear(3)))


def test_names_do_not_change_with_what_is_attached_or_wrapped_round() -> None:
    model = small()
    names, order = list(parameters_by_name(model)), list(prunable(model))
    assert names == [n for n, _ in model.named_parameters()]
    for wrapped in (torch.compile(model), nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model)):
        assert isinstance(wrapped, nn.Module)
        assert list(parameters_by_name(wrapped)) == names
        assert list(prunable(nn.DataParallel(wrapped))) == order
    assert unwrap(torch.compile(model)) is model
    part = copy.deepcopy(model)
    part[3] = torch.compile(part[3])
    assert list(prunable(part)) == order
    parametrize.register_parametrization(model[3], "weight", Doubled())
    assert list(prunable(model)) == order
    assert set(parameters_by_name(model)) == set(names)
    assert named_parameter(model, "3.weight") is model[3].parametrizations.weight.original


def test_a_user_module_called_module_keeps_its_name() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    assert list(prunable(Net())) == ["module.weight"]


def test_weight_norm_has_no_single_weight_to_prune() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2))
    assert list(prunable(model)) == ["1.weight"]
    assert "0.parametrizations.weight.original0" in parameters_by_name(model)


def test_torchvision_names_are_the_state_dicts_own() -> None:
    model = torchvision.models.resnet18()
    found = prunable(model)
    assert len(found) == 21
    assert sum(p.numel() for p in found.values()) == 11_678_912
    assert set(found) <= set(model.state_dict())


def test_unknown_name_gives_close_matches() -> None:
    with pytest.raises(TombolaError, match=r"no parameter is called '3\.weigth'.*3\.weight"):
        named_parameter(small(), "3.weigth")


# ---- masks


def mask(**layers: list[int] | list[list[int]]) -> Mask:
    return Mask({name: torch.tensor(values) for name, values in layers.items()})


def test_counts_and_density() -> None:
    m = mask(a=[[1, 0], [0, 0]], b=[1, 1, 0])
    assert (m.kept, m.total) == (3, 7)
    assert isinstance(m.kept, int)
    assert m.density == 3 / 7
    assert m.counts() == {"a": (1, 4), "b": (2, 3)}
    assert m.densities() == {"a": 0.25, "b": 2 / 3}
    assert list(m) == ["a", "b"]
    assert m["a"].dtype == torch.bool
    assert "3 of 7" in repr(m)
    assert Mask({}).density == 1.0


def test_constructor_copies_and_refuses_scores() -> None:
    source = torch.ones(3, dtype=torch.bool)
    m = Mask({"a": source})
    source[0] = False
    assert m.kept == 3
    with pytest.raises(TombolaError, match="other values than 0 and 1"):
        Mask({"a": torch.tensor([0.3, 1.0])})


def test_table_states_the_denominator() -> None:
    text = mask(fc=[[1, 0], [0, 0]], b=[1, 1]).table()
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "shape", "kept", "total", "density"]
    assert lines[2].split() == ["fc", "2x2", "1", "4", "25.00", "%"]
    assert lines[5].split() == ["total", "3", "6", "50.00", "%"]
    assert "the 6 weights of these 2 tensors" in lines[6]
    assert len({len(line) for line in lines[:6]}) == 1


def test_set_operations_and_distance() -> None:
    a, b = mask(x=[1, 1, 0, 0], y=[1, 0]), mask(x=[1, 0, 1, 0], y=[1, 0])
    assert a & b == mask(x=[1, 0, 0, 0], y=[1, 0])
    assert a | b == mask(x=[1, 1, 1, 0], y=[1, 0])
    assert a ^ b == mask(x=[0, 1, 1, 0], y=[0, 0])
    assert ~a == mask(x=[0, 0, 1, 1], y=[0, 1])
    assert a != b
    assert a != {"x": 1}
    assert a.hamming(b) == 2 / 6
    assert a.hamming_by_layer(b) == {"x": 0.5, "y": 0.0}
    assert (a & b).nested_in(a)
    assert not a.nested_in(b)
    assert a.to("cpu") == a


def test_masks_over_other_layers_do_not_mix() -> None:
    with pytest.raises(TombolaError, match="different layers"):
        _ = mask(a=[1]) & mask(b=[1])
    with pytest.raises(TombolaError, match="shape"):
        mask(a=[1]).hamming(mask(a=[1, 1]))
    assert mask(a=[1]) != mask(a=[1, 1])


def test_full_and_from_zeros() -> None:
    model = small()
    assert Mask.full(model).density == 1.0
    assert Mask.full({"a": torch.zeros(2, 3)}).total == 6
    with torch.no_grad():
        model[3].weight[0] = 0.0
    m = Mask.from_zeros(model)
    assert m.counts() == {"0.weight": (18, 18), "3.weight": (16, 24)}
    assert list(Mask.from_zeros(model, exclude=["0.*"])) == ["3.weight"]


def test_apply_zeroes_exactly_in_place_even_when_wrapped() -> None:
    model = small()
    with torch.no_grad():
        model[3].weight[0, 0] = float("inf")
        model[3].weight[0, 1] = -1.0
    m = Mask.full(model)
    pruned = m["3.weight"].clone()
    pruned[0] = False
    m = Mask({**m, "3.weight": pruned})
    storage = model[3].weight.data_ptr()
    wrapped = torch.compile(model)
    assert isinstance(wrapped, nn.Module)
    m.apply_(wrapped)
    assert model[3].weight.data_ptr() == storage
    assert torch.equal(model[3].weight[0].detach().view(torch.int32), torch.zeros(8, dtype=torch.int32))  # +0.0
    assert Mask.from_zeros(model) == m

    fresh = small()
    parametrize.register_parametrization(fresh[3], "weight", Doubled())
    m.apply_(fresh)
    assert not fresh[3].weight[0].any()


def test_apply_refuses_a_foreign_network_and_changes_nothing() -> None:
    model = small()
    before = model[0].weight.detach().clone()
    none = torch.zeros_like(before, dtype=torch.bool)
    with pytest.raises(TombolaError, match="no parameter is called 'fc'"):
        Mask({"0.weight": none, "fc": none}).apply_(model)
    with pytest.raises(TombolaError, match=r"\(3, 8\) in the model and \(2,\) in the mask"):
        Mask({"0.weight": none, "3.weight": torch.ones(2)}).apply_(model)
    assert torch.equal(model[0].weight, before)


def test_from_torch_prune() -> None:
    model = small()
    prune.l1_unstructured(model[3], "weight", amount=4)
    m = Mask.from_torch_prune(model)
    assert m.counts() == {"3.weight": (20, 24)}
    assert list(prunable(model)) == ["0.weight", "3.weight"]  # weight_orig under its own name
    plain = small()
    m.apply_(plain)
    assert Mask.from_zeros(plain)["3.weight"].equal(m["3.weight"])
    with pytest.raises(TombolaError, match=r"from_zeros"):
        Mask.from_torch_prune(small())


def test_empty_layers_and_disconnected() -> None:
    m = mask(a=[[0, 0]], bias=[0, 0], c=[[1, 0]])
    assert m.empty_layers() == ["a", "bias"]
    assert disconnected(m) == ["a"]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*non-leaf", "ignore:The .grad")
def test_torchscript_is_one_line(inner: bool) -> None:
    traced = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(TombolaError, match="is TorchScript, which cannot be pruned") as caught:
        prunable(nn.Sequential(nn.Linear(3, 3), traced) if inner else traced)
    assert "\n" not in str(caught.value)
