"""Trainings of one kind as one model: K networks' weights in tensors [K, ...], one step for all, by `torch.func.vmap`.

A training meets the others in its `Company` before every stretch of steps without an evaluation. Those that are alike
then are carried out as a `Stack`. What is computed is what each would compute alone, but for the rounding of sums.
"""
