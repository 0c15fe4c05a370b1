"""Values of feature maps between the centres of their cells, against torch's `grid_sample`."""

import torch
import torch.nn.functional as F

from modeling_mtld.sampling_mtld import cell_grid, lay_out_maps, sample_map, sample_tokens

SHAPES = [(1, 1), (3, 5), (8, 8)]


def test_tokens_of_several_maps_are_sampled_as_by_grid_sample():
    """Values and gradients, inside of the maps and beyond their edges."""
    torch.manual_seed(0)
    memory = torch.randn(3, sum(height * width for height, width in SHAPES), 6, requires_grad=True)
    places = (torch.rand(3, 7, 12, 2) * 1.6 - 0.3).requires_grad_()
    factors = torch.rand(3, 7, 12, requires_grad=True)
    read = sample_tokens(memory, *lay_out_maps(SHAPES, 4), places, factors)
    levels = memory.split([height * width for height, width in SHAPES], dim=1)
    maps = [level.transpose(1, 2).unflatten(-1, shape) for level, shape in zip(levels, SHAPES)]
    pieces = [
        F.grid_sample(level, 2 * piece - 1, padding_mode="border", align_corners=False)
        for level, piece in zip(maps, places.chunk(3, dim=2))
    ]
    expected = torch.cat(pieces, dim=-1).permute(0, 2, 3, 1) * factors.unsqueeze(-1)
    assert torch.allclose(read, expected, atol=1e-5)
    weights, inputs = torch.randn_like(read), (memory, places, factors)
    found, wanted = (torch.autograd.grad(values, inputs, weights) for values in (read, expected))
    for mine, theirs in zip(found, wanted):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_places_that_are_no_numbers_are_within_memory():
    memory, (sizes, corners) = torch.rand(2, 9, 4), lay_out_maps([(3, 3)], 1)
    for value in (torch.nan, torch.inf, -torch.inf):
        places = torch.full((2, 1, 1, 2), value)
        assert sample_tokens(memory, sizes, corners, places, torch.ones(2, 1, 1)).isfinite().all()
        assert sample_map(memory.transpose(1, 2).unflatten(-1, (3, 3)), places).isfinite().all()


def test_the_last_maps_can_be_read_alone():
    memory, places = torch.rand(2, 2 * 3 + 16, 4), torch.rand(2, 5, 3, 2)
    sizes, corners = lay_out_maps([(2, 3), (4, 4)], 3)
    factors = torch.ones(2, 5, 3)
    read = sample_tokens(memory, sizes[-3:], corners[-3:], places, factors)
    alone = sample_tokens(memory[:, 6:], *lay_out_maps([(4, 4)], 3), places, factors)
    assert torch.equal(read, alone)


def test_a_grid_of_cells_has_its_middle_at_zero():
    assert cell_grid(3) == [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert cell_grid(2) == [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)]
