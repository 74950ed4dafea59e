"""Linear mode connectivity: do two trainings from one step end in one valley, and how high is the barrier if not."""
