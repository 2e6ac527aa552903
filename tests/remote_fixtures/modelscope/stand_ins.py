"""Test fixture: the part of the ModelScope framework that its model files import, for the time of their import.

Differs from the framework in doing nothing: its base classes only hold a directory's name.
"""

import logging
import sys
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import ModuleType


class Model:
    def __init__(self, model_dir=None):
        pass


class TorchModel(Model):
    def __init__(self, model_dir=None):
        pass  # the files call the constructor of PreTrainedModel themselves


class AnyName:
    """Whatever is asked for: names of tasks, models and outputs."""

    def __getattr__(self, name):
        return name


MODULES = {
    "modelscope": {"Model": Model, "TorchModel": TorchModel, "__path__": []},
    "modelscope.metainfo": {"Models": AnyName()},
    "modelscope.outputs": {"OutputKeys": AnyName()},
    "modelscope.utils": {"__path__": []},
    "modelscope.utils.constant": {"Tasks": AnyName()},
    "modelscope.utils.logger": {"get_logger": logging.getLogger},
}


@contextmanager
def installed():
    before = {name: sys.modules.get(name) for name in MODULES}
    for name, values in MODULES.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(values)
    sys.modules["modelscope.utils"].logger = sys.modules["modelscope.utils.logger"]
    try:
        with redirect_stdout(StringIO()):  # they print that flash_attn is missing
            yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
