"""Commands for a network of one's own, named as package.module:factory."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lwexplain.cli.commands import app as app
from lwexplain.cli.network import (
    Model,
    ModelArgs,
    asked_stages,
    current_folder_searched,
    network_of,
    output_aside,
)
from lwexplain.cli.options import AsJson
from lwexplain.errors import ConfigError
from lwexplain.program import own_command
from lwexplain.terminal import say, say_json, say_table, tell
from lwexplain.text_table import TextTable

if TYPE_CHECKING:
    from lwexplain.models.describe_stages import StageDescription

ImageSize = Annotated[int, typer.Option(min=1, help="Height and width of the images in pixels.")]
Channels = Annotated[int, typer.Option(min=1, help="Channels of the images.")]
Stages = Annotated[
    str,
    typer.Option(
        "--stages",
        help="auto, names of modules with commas between them, or a regular expression that whole names match.",
    ),
]


@app.command()
def stages(
    model: Model,
    model_args: ModelArgs = None,
    image_size: ImageSize = 224,
    channels: Channels = 3,
    stages: Stages = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the stages of a network of one's own, with outputs, parameters and FLOPs, before anything is run on data."""
    from lwexplain.models.describe_stages import describe_stages
    from lwexplain.models.find_stages import find_stages
    from lwexplain.models.stage_table import image_of_shape

    with current_folder_searched(), output_aside():
        network = network_of(model, model_args)
        image = image_of_shape((channels, image_size, image_size))
        found = describe_stages(network, image, find_stages(network, image, asked_stages(stages, network)))
    if as_json:
        say_json([{"depth": depth, **asdict(stage)} for depth, stage in enumerate(found, start=1)])
        return
    say_table(table_of_stages(found))
    total = sum(parameter.numel() for parameter in network.parameters())
    say(f"the whole network has {total:,} parameters; FLOPs are those of one image of {image_size}x{image_size}")
    words = ["--model", model, *(["--model-args", model_args] if model_args else []), "--image-size", str(image_size)]
    chosen = [] if stages == "auto" else ["--stages", stages]
    adopt = own_command("adopt", *words, *chosen)
    say(f"next: {adopt} --weights FILE --data folder --root DIR --run-dir NEW_DIR")


def table_of_stages(found: "list[StageDescription]") -> TextTable:
    """A line a stage: what it gives, what it has and does by itself, and all up to it."""
    return TextTable.of(
        list(enumerate(found, start=1)),
        {
            "depth": lambda item: str(item[0]),
            "stage": lambda item: item[1].name,
            "module": lambda item: item[1].module,
            "output": lambda item: "x".join(map(str, item[1].shape)),
            "parameters": lambda item: f"{item[1].parameters:,}",
            "to here": lambda item: f"{item[1].parameters_to_here:,}",
            "FLOPs": lambda item: f"{item[1].flops:,}",
            "FLOPs to here": lambda item: f"{item[1].flops_to_here:,}",
        },
    )


@app.command()
def adopt(
    model: Model,
    data: Annotated[str, typer.Option(help="folder, or a data set of `lwexplain list datasets`.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="The trained weights: safetensors, or a state dict saved by torch (default: as built)."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="The folder that holds the images.")] = None,
    model_args: ModelArgs = None,
    image_size: Annotated[int | None, typer.Option(min=4, help="Resize images to this height and width.")] = None,
    channels: Annotated[int | None, typer.Option(help="Convert images to grey (1) or colour (3).")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of each channel of pixels from 0 to 1, as the network was trained: .5,.5,.5")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel, likewise.")] = None,
    stages: Stages = "auto",
    run_dir: Annotated[Path | None, typer.Option(help="Run directory (default: runs/<class of the network>).")] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Largest number of images used of each split.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the splits and sub-samples.")] = 0,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (default: cpu).")] = None,
    final_norm: Annotated[
        bool, typer.Option("--final-norm", help="Let every stage pass through the network's own final normalisation.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Lose the run that lies there.")] = False,
) -> None:
    """Make a run of a network that you trained yourself, in whatever loop: all other commands take it from there."""
    from lwexplain import api
    from lwexplain.models.weight_files import load_weights

    images: dict[str, Any] = {"name": data, "root": None if root is None else str(root)}
    images |= {"image_size": image_size, "channels": channels}
    with current_folder_searched(), output_aside():
        network = network_of(model, model_args)
        if weights is not None:
            tell(f"weights: {load_weights(network, weights)}")
        run = api.adopt(
            network,
            {key: value for key, value in images.items() if value is not None},
            asked_stages(stages, network),
            out=run_dir,
            mean=numbers_in("--mean", mean),
            std=numbers_in("--std", std),
            max_samples=max_samples,
            device=device,
            seed=seed,
            final_norm=final_norm,
            replace=replace,
        )
    sizes = ", ".join(f"{count:,} {split}" for split, count in run.manifest["data"]["sizes"].items())
    say(f"adopted: {run.path}, {run.trained_depth} stages, {sizes} images")
    again = ["--model", model, *(["--model-args", model_args] if model_args else [])]
    say(f"next: {own_command('analyze', run.path, *again)}")


def numbers_in(option: str, text: str | None) -> list[float] | None:
    """The numbers of an option, with commas between them; raises ConfigError where one is none."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} is {text[:60]!r}; write a number for each channel, such as .5,.5,.5") from None
