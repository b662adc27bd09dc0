"""Make an ordinary run of a network that somebody else trained: a look at its images, and its weights."""

import glob
import hashlib
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace as replaced
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from lwexplain.adoption.kept import form_of, has_final_norm, write_features, write_pictures
from lwexplain.adoption.live import Live, Loaders, keep_live
from lwexplain.adoption.look import Seen, Watcher, look
from lwexplain.adoption.pictures import pictures_of
from lwexplain.adoption.source import Source
from lwexplain.adoption.weights import store_weights, weights_of
from lwexplain.arguments import each_of
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import checked_batches
from lwexplain.errors import CaptureError, LwexplainWarning, RunError, mend
from lwexplain.models.find_stages import find_stages
from lwexplain.models.modules import in_evaluation, unwrap
from lwexplain.program import own_option
from lwexplain.results import AnalysisKey
from lwexplain.run import Run
from lwexplain.run.directory import ADOPTED
from lwexplain.run.files import held, is_held
from lwexplain.run.scratch import scratch_folder

POOLING = "auto"


def adopt_network(
    model: nn.Module,
    source: Source,
    stages: Any,
    path: Path,
    *,
    device: torch.device,
    final_norm: bool = False,
    replace: bool = False,
    finish: Callable[[Run], None] = lambda run: None,
) -> Run:
    """The run of ``model`` at ``path``; see ``lw.adopt``. ``stages`` are as in ``find_stages``; ``finish`` completes
    the run before it takes its place.

    A run of the same network and images that lies there already is taken as it is. The run is made beside its place
    and renamed: what lies at ``path`` is a whole run at any moment, the one before or the new one.
    """
    network = unwrap(model)
    digest = weights_of(network).digest
    pictures = pictures_of(source.form)
    loaders, image = _with_first_image(source.loaders, network, source.form)
    with in_evaluation(network, device=device):
        stages = find_stages(network, image.to(device), stages)
    live = Live(network, lambda: loaders, source.form, device)

    if path.exists() and not _is_empty(path) and not replace:
        run = _require_same(Run.open(path), network, digest, stages, replaced(source, loaders=loaders), final_norm)
        return keep_live(run, live)
    if replace and path.exists() and not _is_empty(path):
        Run.open(path)  # nothing but a run is replaced
    with scratch_folder("adopt") as folder:
        seen = look(
            network,
            loaders,
            stages,
            folder=folder,
            form=source.form,
            classes=source.classes,
            pooling=POOLING,
            device=device,
            pictures=pictures,
            identify=True,
            final_norm=final_norm,
        )
        if len(seen.shape) != 3:
            raise CaptureError(
                f"inputs have the shape {seen.shape}; a run is made of images (C, H, W): lw.analyze_model takes others"
            )
        with _beside(path) as place:
            seen.notes += [pictures.note] if pictures.note else []
            manifest = _manifest(network, seen, source, digest, final_norm)
            run = Run.create(place, _configuration(network, source), **manifest)
            store_weights(run, network)
            write_pictures(run, seen)
            key = AnalysisKey.of(run, max_samples=None, pooling=POOLING, precision="auto")
            write_features(run, key, seen.captured)
            keep_live(run, live)
            finish(run)
            _put_in_place(place, path, replace=replace)
    return keep_live(Run.open(path), live)


def _with_first_image(
    loaders: Mapping[str, Iterable[Any]], model: nn.Module, form: BatchForm
) -> tuple[Loaders, torch.Tensor]:
    """The loaders, and the first image of val (1, ...); an iterator that can be read once gives it again."""
    val = loaders["val"]
    given: list[Any] = []
    if isinstance(val, Iterator):
        given = list(islice(each_of(val, "the loader 'val'"), 1))
        loaders = {**loaders, "val": chain(given, val)}
        val = given
    first: tuple[Any, ...] = next(iter(checked_batches(val, "val", model, form)))
    return dict(loaders), first[0][:1]


def _configuration(model: nn.Module, source: Source) -> str:
    """``config.yaml``: the seed, the data set where there is one by name, and what the network is called."""
    name = source.name if source.fingerprint is None else source.config.data.name
    data = source.config.data.model_dump(mode="json", exclude_defaults=True) | {"name": name}
    tree = {"seed": source.config.seed, "data": data, "model": {"name": type(model).__name__}}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _manifest(model: nn.Module, seen: Seen, source: Source, digest: str, final_norm: bool) -> dict[str, Any]:
    prints = dict(source.part_fingerprints or seen.contents)
    whole = hashlib.sha256(repr((seen.classes, sorted(seen.contents.items()))).encode()).hexdigest()
    return {
        "status": ADOPTED,
        "model": type(model).__name__,
        "trained_depth": len(seen.stages),
        "stages": seen.stages,
        "data": {
            "name": source.name,
            "classes": seen.classes,
            "shape": list(seen.shape),
            "sizes": {split: len(part.labels) for split, part in seen.captured.items()},
            "fingerprint": source.fingerprint or f"loaders:{whole}",
            "part_fingerprints": prints,
            "notes": list(source.notes),
            "mean": list(source.form.mean) or None,
            "std": list(source.form.std) or None,
        },
        "adoption": {
            "weights": digest,
            "images": "loaders" if source.fingerprint is None else "config",
            "order": seen.order["val"],
            "notes": seen.notes,
            "final_norm": final_norm,
            "max_samples": source.max_samples,
            "were_pixels": seen.were_pixels,
        },
    }


# ---------------------------------------------------------------------- what lies there already


def _require_same(
    run: Run, model: nn.Module, digest: str, stages: Sequence[str], source: Source, final_norm: bool
) -> Run:
    """The run; raises RunError where it is not one of this network, these stages and these images."""
    new = f"choose another folder with {own_option('run_dir') if source.fingerprint else 'out'}, or add replace"
    if not run.is_adopted:
        raise RunError(f"{run.path} is no run of an adopted network (status {run.status!r}); {new}")
    known = run.manifest.get("adoption", {})
    if known.get("weights") != digest:
        raise RunError(f"{run.path} was adopted from a network with other weights; {new}")
    named = [stage.partition("#")[0] for stage in run.manifest["stages"]]
    if list(dict.fromkeys(named)) != list(dict.fromkeys(stage.partition("#")[0] for stage in stages)):
        raise RunError(f"{run.path} was adopted with other stages ({', '.join(run.manifest['stages'])}); {new}")
    before: dict[str, Any] = {"final_norm": has_final_norm(run), "max_samples": known.get("max_samples")}
    before |= {name: list(values) for name, values in vars(form_of(run)).items() if name in ("mean", "std")}
    now: dict[str, Any] = {"final_norm": final_norm, "max_samples": source.max_samples}
    now |= {"mean": list(source.form.mean), "std": list(source.form.std)}
    for name in before:
        if before[name] != now[name]:
            raise RunError(f"{run.path} was adopted with {name}={before[name]}, now it is {now[name]}; {new}")
    prints = run.manifest["data"].get("part_fingerprints", {})
    compared = [split for split in ("val", "test") if split in source.loaders]  # train may be shuffled and augmented
    given = source.part_fingerprints
    found = {split: given.get(split) or _contents(source, split, model) for split in compared}
    different = [split for split in ("val", "test") if prints.get(split) != found.get(split)]
    if different:
        raise RunError(f"the images of {' and '.join(different)} are not those {run.path} was adopted with; {new}")
    return run


def _contents(source: Source, split: str, model: nn.Module) -> str:
    """What identifies the samples that a loader gives."""
    watcher = Watcher(split, identify=True)
    for _ in watcher.watching(checked_batches(source.loaders[split], split, model, source.form)):
        pass
    assert watcher.fingerprint is not None
    return watcher.fingerprint.contents


# ---------------------------------------------------------------------- taking its place


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder name beside ``path``; what lies there is removed at the end, and so are those of killed processes."""
    parent, name = path.absolute().parent, path.absolute().name
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {parent}: {error.strerror}; {mend(error)}") from None
    for entry in parent.glob(f".{glob.escape(name)}.*.adopting"):
        if re.fullmatch(r"[0-9a-f]{8}", entry.name[len(name) + 2 : -9]) and not is_held(str(entry)):
            shutil.rmtree(entry, ignore_errors=True)
    place = parent / f".{name}.{secrets.token_hex(4)}.adopting"
    place.mkdir()
    try:
        with held(str(place)):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _put_in_place(new: Path, path: Path, *, replace: bool) -> None:
    """Give a whole run its name. The run that lies there goes once the new one stands; raises RunError where it is not
    to be replaced (another process has made it meanwhile) or is in use."""
    there = path.exists() and not _is_empty(path)
    if there and not replace:
        raise RunError(f"another process has made {path} meanwhile; adopt again to use that run, or add replace")
    before = path.absolute().parent / f".{path.absolute().name}.{secrets.token_hex(4)}.replaced"
    try:
        with Run.open(path).lock("lwexplain adopt") if there else nullcontext():
            if there:
                os.rename(path, before)
            os.rename(new, path)
    except OSError as error:
        raise RunError(f"cannot put the run at {path}: {error.strerror}; {mend(error)}") from None
    if there:
        shutil.rmtree(before, ignore_errors=True)
    if before.exists():
        warnings.warn(f"the run that was replaced could not be removed from {before}", LwexplainWarning, stacklevel=2)


def _is_empty(path: Path) -> bool:
    try:
        return not os.listdir(path)
    except OSError:
        return False
