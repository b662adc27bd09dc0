"""Stages that are found by themselves, by a regular expression, or named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.find_stages import find_stages

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A block with a shortcut, as in a residual network."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class Looped(nn.Module):
    """Blocks that lie in a dictionary under names whose alphabet is not the order in which they run."""

    def __init__(self, wrap=lambda block: block):
        super().__init__()
        self.later = nn.ModuleDict({f"block{number}": wrap(Block(4)) for number in (2, 10, 1)})
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x)
        for name in ("block10", "block1", "block2"):
            x = self.later[name](x)
        return self.head(x.mean((2, 3)))


class WithoutModules(nn.Module):
    """Activations and pooling are calls of functions; one pooling serves twice."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(288, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc(x.flatten(1))


class ShortcutsOutside(nn.Module):
    """A transformer in which the loop adds the shortcuts, so that no module gives the whole state."""

    def __init__(self, depth=4):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        mix = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(depth)]
        feed = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(depth)]
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in zip(mix, feed, strict=True))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for mix, feed in self.layers:
            x = x + mix(x)
            x = x + feed(x)
        return self.head(x.mean(1))


class Transformer(nn.Module):
    """torch's own encoder, whose layers normalise after the shortcut; tokens first (T, N, D)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        layer = nn.TransformerEncoderLayer(8, 2, 16)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))


class Adapter(nn.Module):
    """Nested as adapters of large models nest: base_model.model."""

    def __init__(self, model):
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = model

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)


def plain():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))


def of_groups(number=6):
    groups = [nn.Sequential(nn.Conv2d(3 if i == 0 else 4, 4, 3), nn.ReLU()) for i in range(number)]
    return nn.Sequential(*groups, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def rows():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))


class Rows(nn.Module):
    """Layers of rows, whose activations are functions."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3072, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc3(F.relu(self.fc2(x))), 1)


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Linear(8, 8), nn.Linear(8, 5))


LOOP = ["stem", "later.block10", "later.block1", "later.block2"]
EXPECTED = {
    "a plain row of layers is cut at its activations, without those of the head": (plain, ["2", "5"]),
    "rows of features are cut where there is nothing else": (rows, ["2", "4"]),
    "rows of features without modules for their activations": (Rows, ["fc1", "fc2"]),
    "layers without any activation": (linear, ["1", "2"]),
    "groups of layers": (of_groups, ["0", "1", "2", "3", "4", "5"]),
    "few groups of layers": (lambda: of_groups(2), ["0", "1"]),
    "an own loop, in the order in which it runs": (Looped, LOOP),
    "activations that are no modules": (WithoutModules, ["pool#1", "pool#2"]),
    "shortcuts that the loop adds": (ShortcutsOutside, [f"layers.{n}.1" for n in range(4)]),
    "an encoder of torch": (Transformer, [f"encoder.layers.{n}" for n in range(3)]),
    "several processors": (lambda: nn.DataParallel(Looped()), [f"module.{name}" for name in LOOP]),
    "an adapter": (lambda: Adapter(Looped()), [f"base_model.model.{name}" for name in LOOP]),
    "compiled": (lambda: torch.compile(Looped()), [f"_orig_mod.{name}" for name in LOOP]),
    "compiled blocks": (lambda: Looped(torch.compile), LOOP),
    "half precision": (lambda: Looped().to(torch.bfloat16), LOOP),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_stages_of_a_network_of_ones_own(case):
    build, names = EXPECTED[case]
    assert find_stages(build(), IMAGE) == names


def test_vision_transformers_are_cut_at_their_blocks():
    from torchvision.models import SwinTransformer, VisionTransformer

    vit = VisionTransformer(32, 8, 3, 2, 16, 32)
    assert find_stages(vit, IMAGE) == [f"encoder.layers.encoder_layer_{n}" for n in range(3)]
    swin = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2])
    assert find_stages(swin, IMAGE) == ["features.0", "features.1.0", "features.1.1", "features.3.0", "features.3.1"]


MOBILENET = [
    *("bn1", "blocks.0"),
    *(f"blocks.{n}.{m}" for n, most in ((1, 2), (2, 3), (3, 2), (4, 3)) for m in range(most)),
    "blocks.5",
]


@pytest.mark.parametrize(
    ("arch", "options", "expected"),
    [
        ("mobilenetv3_small_050", {}, MOBILENET),
        (
            "regnetx_002",
            {},
            ["stem", "s1.b1", "s2.b1", *(f"s3.b{n}" for n in range(1, 5)), *(f"s4.b{n}" for n in range(1, 8))],
        ),
    ],
)
def test_stages_of_timm(arch, options, expected):
    timm = pytest.importorskip("timm", reason="the extra 'models' is not installed")
    found = find_stages(timm.create_model(arch, **options), IMAGE)
    assert found == expected


# ---------------------------------------------------------------------- asked for


def test_named_stages_come_back_as_they_are():
    assert find_stages(Looped(), IMAGE, ["later.block1", "stem.0"]) == ["later.block1", "stem.0"]


def test_a_regular_expression_finds_whole_names_in_the_order_in_which_they_run():
    assert find_stages(Looped(), IMAGE, r"later\.block\d+") == LOOP[1:]
    assert find_stages(WithoutModules(), IMAGE, "pool") == ["pool#1", "pool#2"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["later.block3"], "no stage 'later.block3' in the model; did you mean"),
        ([], "expected a list of at least one"),
        (["stem", "stem"], "more than once"),
        (r"later\.blok\d", "no module's name matches"),
        ("later.block", "no module's name matches 'later.block' as a whole"),
        ("(", "no regular expression"),
        (r"later\.block\d|stem.*|later", "lies inside"),
    ],
)
def test_what_fits_no_module_is_refused(asked, words):
    with pytest.raises(CaptureError, match=words):
        find_stages(Looped(), IMAGE, asked)


def test_a_network_without_any_stage_is_refused_with_the_mend():
    with pytest.raises(ModelError, match=r"no stages that are found by themselves.*name them yourself"):
        find_stages(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), IMAGE)


def test_a_network_whose_output_owes_nothing_to_the_image_is_refused():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 5)

        def forward(self, x):
            return self.layer(torch.ones(len(x), 4))

    with pytest.raises(ModelError, match="no way leads from the image to its output"):
        find_stages(Blind(), IMAGE)


def test_what_a_forward_raises_is_passed_on_with_the_size_of_the_image():
    from lwexplain.errors import UserCodeError

    with pytest.raises(UserCodeError, match=r"Sequential, given an image of shape \(3, 32, 32\), raised RuntimeError"):
        find_stages(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(3, 2)), IMAGE)
