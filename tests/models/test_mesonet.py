import pytest
import torch

from dfdetect import create_model


@pytest.mark.parametrize(("name", "weights"), [("meso4", 27_977), ("meso_inception4", 28_615)])
def test_mesonets_have_the_number_of_weights_in_the_paper(name, weights):
    assert sum(parameter.numel() for parameter in create_model(name).parameters()) == weights


@pytest.mark.parametrize("name", ["meso4", "meso_inception4", "meso_inception4_linear"])
def test_mesonets_accept_images_of_other_sizes(name):
    model = create_model(name, drop_rate=0.5).eval()
    for size in (64, 256):
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 1)
