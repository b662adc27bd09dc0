import torch
from sklearn.datasets import load_digits

from lwexplain.config import DataConfig
from lwexplain.data.digits import digits


def test_digits_are_those_of_scikit_learn_scaled_to_bytes():
    source = digits(DataConfig())
    assert len(source.train) == 1797
    assert source.train.shape == (1, 8, 8)
    assert source.test is None
    assert source.classes == list("0123456789")
    raw = torch.from_numpy(load_digits().images)
    assert torch.all((source.train.images[:, 0] / 255 * 16 - raw).abs() < 0.04)
    assert source.train.images.max() == 255
