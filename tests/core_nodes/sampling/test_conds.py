"""Values for the model: fitting a batch and an area, joining."""

from __future__ import annotations

import torch
from comfyk_core_nodes.sampling.conds import (
    CONDConstant,
    CONDCrossAttn,
    CONDList,
    CONDNoiseShape,
    CONDRegular,
)


def test_regular() -> None:
    value = CONDRegular(torch.arange(2.0).view(2, 1))
    assert value.process_cond(batch_size=5).cond.flatten().tolist() == [0, 1, 0, 1, 0]
    assert value.process_cond(batch_size=1).cond.flatten().tolist() == [0]
    assert value.can_concat(CONDRegular(torch.ones(2, 1)))
    assert not value.can_concat(CONDRegular(torch.ones(2, 2)))
    assert value.concat([CONDRegular(torch.ones(1, 1))]).shape == (3, 1)


def test_noise_shape_is_cut() -> None:
    value = CONDNoiseShape(torch.arange(12.0).view(1, 1, 3, 4))
    cut = value.process_cond(batch_size=2, area=[2, 1, 1, 3])
    assert isinstance(cut, CONDNoiseShape)
    assert cut.cond[1].flatten().tolist() == [7, 11]


def test_cross_attention_repeats_the_shorter() -> None:
    short, long = CONDCrossAttn(torch.zeros(1, 2, 4)), CONDCrossAttn(torch.ones(1, 3, 4))
    assert short.can_concat(long)
    assert short.concat([long]).shape == (2, 6, 4)
    assert not CONDCrossAttn(torch.zeros(1, 1, 4)).can_concat(CONDCrossAttn(torch.zeros(1, 5, 4)))
    assert not short.can_concat(CONDCrossAttn(torch.zeros(1, 2, 5)))


def test_constants_join_when_equal() -> None:
    value = CONDConstant({"a": [torch.ones(1), (1, "x")]})
    assert value.process_cond(batch_size=3) is value
    assert value.can_concat(CONDConstant({"a": [torch.ones(1), (1, "x")]}))
    assert not value.can_concat(CONDConstant({"a": [torch.zeros(1), (1, "x")]}))
    assert not value.can_concat(CONDConstant(None))
    assert value.concat([value]) is value.cond
    assert value.size() == [1]


def test_lists() -> None:
    value = CONDList([torch.zeros(1, 2), torch.zeros(1, 3)])
    assert [t.shape[0] for t in value.process_cond(batch_size=2).cond] == [2, 2]
    assert value.can_concat(CONDList([torch.ones(1, 2), torch.ones(1, 3)]))
    assert not value.can_concat(CONDList([torch.ones(1, 2)]))
    assert [t.shape[0] for t in value.concat([value])] == [2, 2]
    assert value.size() == [1, 1, 5]
