"""An adapter without its library says what to install; lw.Monitor itself needs none of them."""

import subprocess
import sys
import textwrap


def test_an_adapter_names_its_extra():
    code = """
        import importlib, sys
        for name in ("lightning", "pytorch_lightning", "transformers", "tensorboard", "wandb"):
            sys.modules[name] = None
        import lwexplain.monitoring.monitor
        for library in ("lightning", "transformers"):
            try:
                importlib.import_module(f"lwexplain.integrations.{library}")
            except Exception as error:
                print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    for line, library in zip(done.stdout.splitlines(), ("lightning", "transformers"), strict=True):
        assert line.startswith("LwexplainError Layer")
        assert f"pip install 'lwexplain[{library}]'" in line
