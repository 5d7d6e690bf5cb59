"""Pictures, plots and the HTML report of a fitted model."""

from scattergen.datasets.image_files import image_grid, save_image_grid
from scattergen.report.fit_report import DensityEntry, FitReport, VisualisationMatrix, write_fit_report

__all__ = ["DensityEntry", "FitReport", "VisualisationMatrix", "image_grid", "save_image_grid", "write_fit_report"]
