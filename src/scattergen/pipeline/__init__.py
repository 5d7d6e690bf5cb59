"""What is done with a run folder: fits, further densities, evaluations, diagnoses, estimates."""
