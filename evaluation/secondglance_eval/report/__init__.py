"""From records to figures, plots and pages. Asks no server; needs the folder of a run and nothing else."""
