# The public names, read by type checkers and, at run time, by lazy_loader.
from . import (
    compact,
    data,
    levels,
    machine,
    methods,
    models,
    nn,
    report,
    rng,
    runs,
    runtime,
    search,
    study,
    supermask,
    ticket,
    train,
)
from .cli.reproduce import reproduce
from .cli.sweep import sweep
from .errors import TicketError, TombolaError
from .hold import hold
from .mask import Mask
from .methods.anneal import Anneal
from .methods.at_init import AtInit
from .methods.base import Method
from .methods.concrete import Concrete
from .methods.continuous import Continuous
from .methods.early_bird import EarlyBird
from .methods.edge_popup import EdgePopup
from .methods.evolve import Evolve
from .methods.imp import IterativePruning
from .methods.joint import Joint
from .methods.learned_mask import LearnedMask
from .methods.random_search import RandomSearch
from .methods.winning_sign import SignTransfer
from .parameters import prunable
from .results.table import results
from .runtime.deploy import deploy
from .search.find import find
from .select.select import select
from .study.connectivity.barrier import barrier
from .study.connectivity.run import connectivity
from .study.double_descent.run import double_descent
from .study.initialisations.run import initialisations
from .study.landscape.run import landscape
from .study.regime.run import regime
from .study.sweep.engines import EngineOptions
from .study.verify import verify
from .supermask.attach import attach
from .supermask.detach import detach, make_permanent
from .supermask.masks import read, refresh
from .supermask.rules import TopK
from .ticket.ticket import Ticket
from .train.gradient import gradient
from .train.loggers import Logger
from .train.options import Options
from .train.recipe import Recipe

__version__: str

__all__ = [
    "Anneal",
    "AtInit",
    "Concrete",
    "Continuous",
    "EarlyBird",
    "EdgePopup",
    "EngineOptions",
    "Evolve",
    "IterativePruning",
    "Joint",
    "LearnedMask",
    "Logger",
    "Mask",
    "Method",
    "Options",
    "RandomSearch",
    "Recipe",
    "SignTransfer",
    "Ticket",
    "TicketError",
    "TombolaError",
    "TopK",
    "attach",
    "barrier",
    "compact",
    "connectivity",
    "data",
    "deploy",
    "detach",
    "double_descent",
    "find",
    "gradient",
    "hold",
    "initialisations",
    "landscape",
    "levels",
    "machine",
    "make_permanent",
    "methods",
    "models",
    "nn",
    "prunable",
    "read",
    "refresh",
    "regime",
    "report",
    "reproduce",
    "results",
    "rng",
    "runs",
    "runtime",
    "search",
    "select",
    "study",
    "supermask",
    "sweep",
    "ticket",
    "train",
    "verify",
]
