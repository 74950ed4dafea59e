"""The report: run directories in, figures and one self-contained page out."""
