"""Files of weights that other frameworks wrote, read without running anything that they hold."""
