import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from lwexplain.config import DataConfig
from lwexplain.data.load import load_data
from lwexplain.data.synthetic import make_prototypes, synthetic
from lwexplain.errors import DataError


def small_network_accuracy(difficulty, epochs=12):
    config = DataConfig(name="synthetic", options={"difficulty": difficulty, "classes": 4, "samples": 800})
    data = load_data(config, 0)
    x, y = (data.train.images / 255 - 0.5) * 4, data.train.labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 5, stride=2, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(32, 4),
        )
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.arange(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    logits = network((data.test.images / 255 - 0.5) * 4)
    return (logits.argmax(1) == data.test.labels).double().mean().item()


def test_the_accuracy_of_a_small_network_falls_as_difficulty_rises():
    easy, hard = small_network_accuracy(0.0), small_network_accuracy(1.0)
    middle = small_network_accuracy(0.7)
    assert easy > 0.97
    assert easy > middle > hard + 0.1
    assert hard < 0.9


def test_at_difficulty_zero_the_nearest_neighbour_is_always_right():
    data = load_data(DataConfig(name="synthetic", options={"difficulty": 0.0, "samples": 300}), 0)
    knn = KNeighborsClassifier(1).fit(data.train.images.flatten(1), data.train.labels)
    assert knn.score(data.test.images.flatten(1), data.test.labels) == 1.0


def test_images_depend_on_the_options_alone():
    def make(**options):
        return synthetic(DataConfig(), samples=60, **options).train.fingerprint()

    assert make() == make()
    assert len({make(), make(seed=1), make(difficulty=0.6)}) == 3


def test_shape_classes_and_balance_follow_the_options():
    source = synthetic(DataConfig(), classes=3, size=12, channels=3, samples=30)
    assert source.train.shape == (3, 12, 12)
    assert len(source.classes) == 3
    assert torch.bincount(source.train.labels).tolist() == [10, 10, 10]


def test_prototypes_are_standardised_and_distinct():
    prototypes = make_prototypes(10, 1, 16, 0)
    assert torch.allclose(prototypes.mean((2, 3)), torch.zeros(10, 1), atol=1e-5)
    assert torch.allclose(prototypes.std((2, 3)), torch.ones(10, 1), atol=1e-4)
    correlation = torch.corrcoef(prototypes.flatten(1)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.9


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("classes", 1),
        ("size", 4),
        ("channels", 0),
        ("samples", 5),
        ("difficulty", 1.5),
        ("difficulty", "high"),
        ("seed", -1),
    ],
)
def test_an_option_out_of_range_is_named_with_its_value(option, value):
    with pytest.raises(DataError, match=rf"data\.options\.{option}={value!r}"):
        synthetic(DataConfig(), **{option: value})
