import pytest

from dfdetect.errors import ArgumentError
from dfdetect.models.registry import list_recipes, model_info
from dfdetect.training.config import TrainConfig, recipe


@pytest.mark.parametrize("architecture", list_recipes())
def test_recipe_of_each_architecture_is_usable(architecture):
    config = recipe(architecture)
    for name, value in model_info(architecture).recipe.items():
        assert getattr(config, name) == value
    assert (config.frames_per_clip > 1) == (model_info(architecture).input == "clip")


def test_recipe_gives_way_to_settings():
    assert recipe("simple_cnn_1").epochs == 20
    assert recipe("simple_cnn_1", epochs=2).epochs == 2


def test_recipe_of_other_architectures_is_the_defaults():
    assert recipe("resnet18") == TrainConfig("resnet18")


@pytest.mark.parametrize(
    ("start", "end", "sizes"),
    [
        (96, 150, [96, 112, 128, 144, 150, 150]),
        (5, 64, [16, 16, 32, 48, 64, 64]),
        (200, 64, [64] * 6),
    ],
)
def test_crop_size_grows_from_the_start_size_to_the_input_size(start, end, sizes):
    config = TrainConfig("simple_cnn_1", epochs=6, start_size=start, input_size=end)
    assert [config.crop_size(epoch) for epoch in range(6)] == sizes


def test_recipe_refuses_an_odd_batch_size():
    with pytest.raises(ArgumentError, match=r"batch_size must be even, .* half FAKE, not 7"):
        recipe("simple_cnn_1", batch_size=7)


def test_recipe_refuses_unknown_architectures():
    with pytest.raises(ValueError, match="unknown architecture 'resnet_of_dreams'"):
        recipe("resnet_of_dreams")
