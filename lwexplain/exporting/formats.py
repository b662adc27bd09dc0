"""Writing a network as ``.pt2`` (torch.export) or ONNX, and running the written file as somebody else would."""

import contextlib
import inspect
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from lwexplain.errors import ExportError

FORMATS = ("pt2", "onnx")
METADATA_FILE = "metadata.json"
"""Name of the extra file of a ``.pt2`` that holds the metadata; an ONNX file has them as ``metadata_props``."""

SOURCE_REFERENCES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
"""What a traced graph remembers of the Python it came from: paths on this machine and classes of lwexplain."""

Runner = Callable[..., list[Tensor]]
"""From input tensors on the CPU to all output tensors of a file."""


def format_of(out: Path, wanted: str | None) -> str:
    """The format of a file to write: the one ``wanted``, or by its suffix. Raises ExportError where neither says."""
    suffix = out.suffix.lower().removeprefix(".")
    if wanted is None and suffix not in FORMATS:
        raise ExportError(f"the name {out.name!r} does not say a format; end it in .pt2 or .onnx, or give the format")
    if wanted is not None and wanted not in FORMATS:
        raise ExportError(f"format is {wanted!r}; choose one of {', '.join(FORMATS)}")
    if wanted is not None and suffix in FORMATS and suffix != wanted:
        raise ExportError(f"the name {out.name!r} and format {wanted!r} contradict each other; change one of them")
    return wanted or suffix


def require_packages(file_format: str) -> None:
    """Raise ExportError where the packages that write and run ONNX are missing."""
    if file_format != "onnx":
        return
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"ONNX needs an extra ({error}): pip install 'lwexplain[export]'") from None


def write_network(
    network: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    file_format: str,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Trace ``network`` on ``inputs`` (two samples or more each) and write it, the batch dimension left free.

    ``metadata`` are written as JSON texts by key. Raises ExportError where the network cannot be traced.
    """
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    try:
        program = _traced(network, inputs)
        if file_format == "onnx":
            content = _onnx_bytes(program, input_names, output_names, texts)
        else:
            content = _pt2_bytes(program, texts)
    except Exception as error:  # foreign models, heads and both exporters raise nearly anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"this network cannot be written as {file_format}: {reason[0]}") from error
    path.write_bytes(content)


def open_network(path: Path, file_format: str) -> Runner:
    """The written file as a function, loaded by torch.export or onnxruntime alone."""
    if file_format == "onnx":
        return _onnx_runner(path)
    with path.open("rb") as file:
        module = torch.export.load(io.BytesIO(file.read())).module()

    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            outputs = module(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


def _traced(network: nn.Module, inputs: Sequence[Tensor]) -> ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    arguments = dict(inspect.signature(network.forward).bind(*inputs).arguments)
    shapes = tree_map_only(Tensor, lambda _: {0: batch}, arguments)
    printed = io.StringIO()  # torch prints the half-made graph where it fails
    with torch.no_grad(), contextlib.redirect_stderr(printed):
        return torch.export.export(network, tuple(inputs), dynamic_shapes=shapes, strict=False)


def _pt2_bytes(program: ExportedProgram, texts: Mapping[str, str]) -> bytes:
    for node in program.graph.nodes:
        for reference in SOURCE_REFERENCES:
            node.meta.pop(reference, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(dict(texts), ensure_ascii=False)})
    return buffer.getvalue()


def _onnx_bytes(
    program: ExportedProgram, input_names: Sequence[str], output_names: Sequence[str], texts: Mapping[str, str]
) -> bytes:
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=list(input_names),
        output_names=list(output_names),
    )
    assert exported is not None
    proto = exported.model_proto
    _forget_source(proto.graph)
    for key, text in texts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, text
    content: bytes = proto.SerializeToString()
    return content


def _forget_source(graph: Any) -> None:
    """Clear what an ONNX graph says of the Python it was traced from, and call its free dimension ``batch``."""
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in (graph, *graph.node, *graph.initializer, *values):
        part.ClearField("metadata_props")
    free = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in values:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == free:
                dimension.dim_param = "batch"


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run
