"""An adapter without its library says what to install; lw.Monitor itself needs none of them."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize("library", ["lightning", "transformers"])
def test_an_adapter_names_its_extra(library):
    code = f"""
        import sys
        for name in ("lightning", "pytorch_lightning", "transformers", "tensorboard", "wandb"):
            sys.modules[name] = None
        import lwexplain.monitoring.monitor
        try:
            import lwexplain.integrations.{library}
        except Exception as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("LwexplainError Layer")
    assert f"pip install 'lwexplain[{library}]'" in done.stdout
