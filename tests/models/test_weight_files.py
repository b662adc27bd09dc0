"""Weights come from files of any common form, all of them or none, and no code in a file is run."""

import json
import os
import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lwexplain.errors import CheckpointError
from lwexplain.models.weight_files import load_weights


class Small(nn.Module):
    def __init__(self, classes=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Tied(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


class Wrapped(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        self.model = Small(seed=seed)


GIVEN = Small(seed=1).state_dict()


def behind(prefix, tensors=GIVEN):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def is_given(model, given=GIVEN):
    return all(torch.equal(tensor, given[name]) for name, tensor in model.state_dict().items())


CONTENTS = {
    "alone": GIVEN,
    "in a dict": dict(GIVEN),
    "state_dict": {"state_dict": GIVEN, "epoch": 3},
    "model_state_dict": {"epoch": 3, "model_state_dict": GIVEN, "loss": torch.tensor(0.5)},
    "model": {"model": GIVEN, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}, "args": [1]},
    "module": {"module": behind("module.")},
    "net": {"net": GIVEN, "acc": 91.5},
    "weights": {"weights": GIVEN},
    "a level of another name": {"generator": GIVEN},
    "two levels": {"model": {"state_dict": behind("module.")}},
    "a level beside a twin that is averaged": {"model_ema": Small(seed=2).state_dict(), "model": GIVEN},
    "averaged weights alone": {"state_dict_ema": GIVEN, "epoch": 1},
    "DataParallel": behind("module."),
    "torch.compile": behind("_orig_mod."),
    "torch.compile inside": {name.replace("conv.", "conv._orig_mod."): tensor for name, tensor in GIVEN.items()},
    "both": behind("module._orig_mod."),
    "model.": behind("model."),
    "backbone.net.": behind("backbone.net."),
    "Lightning with a loss": {"state_dict": behind("model.") | {"criterion.weight": torch.ones(3)}, "epoch": 1},
    "AveragedModel": behind("module.") | {"n_averaged": torch.tensor(3)},
    "student beside an averaged teacher": behind("student.") | behind("ema.", Small(seed=2).state_dict()),
    "without counters": {name: tensor for name, tensor in GIVEN.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_at_any_level_and_behind_any_prefix(tmp_path, name, zipped):
    torch.save(CONTENTS[name], tmp_path / "weights", _use_new_zipfile_serialization=zipped)
    model = Small()
    report = load_weights(model, tmp_path / "weights")
    assert is_given(model, GIVEN | {"norm.num_batches_tracked": torch.tensor(0)})
    assert report.count >= 8


@pytest.mark.parametrize("name", [name for name, held in CONTENTS.items() if all(map(torch.is_tensor, held.values()))])
def test_safetensors_are_read_alike(tmp_path, name):
    save_file(CONTENTS[name], tmp_path / "model.bin")
    model = Small()
    load_weights(model, str(tmp_path / "model.bin"))
    assert is_given(model)


def test_the_report_says_what_was_taken_and_what_was_left(tmp_path):
    torch.save(CONTENTS["Lightning with a loss"], tmp_path / "last.ckpt")
    report = load_weights(Small().half(), tmp_path / "last.ckpt")
    assert (report.count, report.level, report.prefix) == (9, "state_dict", "model.")
    assert report.aside == ("criterion.weight",)
    assert report.cast == ("float32",)
    assert str(report) == (
        f"9 tensors from {tmp_path / 'last.ckpt'}; from its level 'state_dict'; their names without 'model.'; "
        "cast from float32; left aside criterion.weight"
    )


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager"), lambda m: Wrapped()]
)
def test_a_network_in_a_wrapper_takes_the_weights_of_the_network(tmp_path, wrap):
    torch.save(GIVEN, tmp_path / "weights.pt")
    model = wrap(Small())
    load_weights(model, tmp_path / "weights.pt")
    assert is_given(next(part for part in model.modules() if isinstance(part, Small)))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_cast_to_the_dtype_of_the_model(tmp_path, stored):
    given = {name: t.to(stored) if t.is_floating_point() else t for name, t in GIVEN.items()}
    save_file(given, tmp_path / "half.safetensors")
    model = Small()
    model.fc.requires_grad_(False)
    parameters = [id(parameter) for parameter in model.parameters()]
    load_weights(model, tmp_path / "half.safetensors")
    assert model.conv.weight.dtype == torch.float32
    assert torch.equal(model.conv.weight, given["conv.weight"].float())
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert not model.fc.weight.requires_grad
    assert model.training


def test_of_tied_weights_one_name_is_enough(tmp_path):
    given = Tied(seed=1).state_dict()
    for absent in ("first.weight", "second.weight"):
        save_file({name: tensor for name, tensor in given.items() if name != absent}, tmp_path / "tied")
        model = Tied()
        load_weights(model, tmp_path / "tied")
        assert is_given(model, given)
        assert model.second.weight is model.first.weight
    torch.save(given | {"second.weight": torch.zeros(4, 4)}, tmp_path / "torn")
    with pytest.raises(CheckpointError, match=r"first.weight and second.weight differ, and are one tensor"):
        load_weights(Tied(), tmp_path / "torn")


def refused(tmp_path, content, reason, model=None):
    """The content saved by torch is refused for the reason, in one or two lines, and the model stays as it was."""
    torch.save(content, tmp_path / "weights.pt")
    model = model or Small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=reason) as error:
        load_weights(model, tmp_path / "weights.pt")
    assert is_given(model, before)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_names_and_shapes_that_do_not_fit_are_listed(tmp_path):
    without = {name: tensor for name, tensor in GIVEN.items() if not name.startswith("fc")}
    refused(tmp_path, without, "does not fit Small: it lacks fc.bias, fc.weight; build the network")
    refused(tmp_path, GIVEN | {"head.weight": torch.ones(2)}, "head.weight of it is not in the network")
    more = {f"more.{number}.weight": torch.ones(1) for number in range(7)}
    refused(
        tmp_path, without | more, r"lacks fc.bias, fc.weight; more.0.weight, .*, \.\.\. \(7 names\) of it are not in"
    )
    wrong = r"fc.weight is \(5, 4\) in the file and \(3, 4\) in the network \(2 such\); .* its number of classes"
    refused(tmp_path, Small(classes=5).state_dict(), wrong)
    refused(tmp_path, GIVEN | {"fc.weight": torch.ones(3, 4).long()}, "fc.weight is torch.int64 in the file")
    refused(tmp_path, GIVEN | {"fc.weight": torch.ones(3, 4).to_sparse()}, "expected torch.float32")
    refused(tmp_path, {"a.b": torch.ones(1)}, "holds no weights of Small: it names a.b, the network conv.bias")
    refused(tmp_path, [1, 2], "holds no named tensors")
    twice = behind("student.") | behind("teacher.")
    refused(tmp_path, twice, "fit under 'student.' and 'teacher.'; save those that are meant alone")


class Writing:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_in_a_file_is_run(tmp_path, zipped, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark, file = tmp_path / "written", tmp_path / "hostile.pt"
    for content in (Writing(mark), {"state_dict": GIVEN, "args": Writing(mark)}):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            CheckpointError, match=r"holds more than tensors \(posix.system\), and nothing in it is run"
        ):
            load_weights(Small(), file)
    file.write_bytes(pickle.dumps(Writing(mark)))
    with pytest.raises(CheckpointError):
        load_weights(Small(), file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Writing(mark)))  # what would have happened
    assert mark.exists()


def test_a_whole_module_is_refused_with_what_to_save(tmp_path):
    torch.save(Small(), tmp_path / "whole.pt")
    with pytest.raises(
        CheckpointError, match=r"test_weight_files.Small.*save the weights alone: torch.save\(model.state_d"
    ):
        load_weights(Small(), tmp_path / "whole.pt")


def test_files_that_are_cut_short_are_refused(tmp_path):
    torch.save(GIVEN, tmp_path / "zip")
    torch.save(GIVEN, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file(GIVEN, tmp_path / "safetensors")
    for kind in ("zip", "legacy", "safetensors"):
        whole = (tmp_path / kind).read_bytes()
        for share in (0.2, 0.6, 0.95):
            (tmp_path / "cut").write_bytes(whole[: int(share * len(whole))])
            model = Small()
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            with pytest.raises(CheckpointError, match=r"cut is cut short, damaged or|cut holds"):
                load_weights(model, tmp_path / "cut")
            assert is_given(model, before)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("epoch,loss\n1,2\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").touch()
    (tmp_path / "settings.json").write_text("{}")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    for name, reason in {
        "absent": "there is no file of weights",
        "empty": "holds no weights that can be read",
        "text": "holds no weights that can be read",
        "folder": "are a folder; name the file in it, such as model.safetensors",
        "settings.json": "is no index of weights: it has no weight_map",
        "script.pt": "is a TorchScript archive",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            load_weights(Small(), tmp_path / name)
    for path in (None, 3, ""):
        with pytest.raises(CheckpointError, match="the file of weights is"):
            load_weights(Small(), path)


def shards(folder, index):
    names = sorted(GIVEN)
    save_file({name: GIVEN[name] for name in names[:4]}, folder / "model-00001-of-00002.safetensors")
    save_file({name: GIVEN[name] for name in names[4:]}, folder / "model-00002-of-00002.safetensors")
    shard_of = {name: f"model-0000{1 if name in names[:4] else 2}-of-00002.safetensors" for name in names}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": shard_of | index}))
    return path


def test_a_network_in_several_files_is_read_by_its_index(tmp_path):
    model = Small()
    assert load_weights(model, shards(tmp_path, {})).count == len(GIVEN)
    assert is_given(model)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("../secret.safetensors", "all files of a network must lie in the folder of the index"),
        ("/tmp/secret.safetensors", "must lie in the folder"),
        ("..", "must lie in the folder"),
        ("model-00003-of-00003.safetensors", "which is not beside it; copy all files"),
        ("model.safetensors.index.json", "in place of a file of weights"),
        ("model-00001-of-00002.safetensors", "lacks 1 tensors that model.safetensors.index.json names, such as 'more'"),
    ],
)
def test_an_index_reaches_no_file_outside_its_folder(tmp_path, place, reason):
    save_file({"more": torch.ones(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=reason):
        load_weights(Small(), shards(tmp_path / "folder", {"more": place}))


def test_a_file_whose_levels_hold_one_another_is_read_to_an_end(tmp_path):
    content = OrderedDict(state_dict=GIVEN)
    content["again"] = content
    torch.save(content, tmp_path / "circle.pt")
    load_weights(Small(), tmp_path / "circle.pt")
