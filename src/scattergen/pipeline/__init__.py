"""What is done with a run folder: fits, densities, evaluations, diagnoses, reports, comparisons, estimates."""
