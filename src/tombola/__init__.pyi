# The public names, read by type checkers and, at run time, by lazy_loader.
from . import (
    bench,
    compact,
    data,
    deltas,
    gradual,
    graph,
    levels,
    machine,
    methods,
    models,
    nn,
    report,
    rng,
    runs,
    search,
    study,
    supermask,
    ticket,
    train,
)
from .cli.reproduce import reproduce
from .cli.sweep import sweep
from .data.config import DataSpec
from .deltas.delta import Delta, delta
from .deltas.keep import Tall
from .deploy.deploy import deploy
from .deploy.what_if import what_if
from .errors import TicketError, TombolaError
from .gradual.pruner import Gradual
from .gradual.schedule import Cubic
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
from .models.spec import ModelSpec
from .parameters import prunable
from .prune.allocate import Evolution
from .prune.budget import Reached, prune_to
from .prune.channels import prune_channels
from .prune.prune import prune
from .prune.pruned import Pruned
from .prune.sensitivity import sensitivity
from .results.connectivity import ConnectivityResult, Line
from .results.double_descent import DescentPoint, DescentResult
from .results.initialisations import InitialisationsResult
from .results.landscape import LandscapeResult
from .results.regime import PlacedTicket, RegimeResult
from .results.reproduction import ReproductionResult
from .results.sensitivity import Sensitivity
from .results.sweep import SweepResult
from .results.table import results
from .search.find import find
from .select.select import select
from .study.connectivity.barrier import barrier
from .study.connectivity.plan import Connectivity
from .study.connectivity.run import connectivity
from .study.double_descent.density import SparseDescent
from .study.double_descent.forest import Forest
from .study.double_descent.random_features import FourierFeatures, ReluFeatures
from .study.double_descent.run import double_descent
from .study.double_descent.width import Width
from .study.initialisations.plan import Initialisations
from .study.initialisations.run import initialisations
from .study.landscape.plan import Landscape
from .study.landscape.run import landscape
from .study.landscape.statistics import statistics_of
from .study.regime.run import regime
from .study.sweep.engines import EngineOptions
from .study.verify import verify
from .supermask.attach import attach
from .supermask.detach import detach, make_permanent
from .supermask.masks import read, refresh
from .supermask.rules import TopK
from .ticket.pack import pack, unpack
from .ticket.switch import Switched, switch
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
    "Connectivity",
    "ConnectivityResult",
    "Continuous",
    "Cubic",
    "DataSpec",
    "Delta",
    "DescentPoint",
    "DescentResult",
    "EarlyBird",
    "EdgePopup",
    "EngineOptions",
    "Evolution",
    "Evolve",
    "Forest",
    "FourierFeatures",
    "Gradual",
    "Initialisations",
    "InitialisationsResult",
    "IterativePruning",
    "Joint",
    "Landscape",
    "LandscapeResult",
    "LearnedMask",
    "Line",
    "Logger",
    "Mask",
    "Method",
    "ModelSpec",
    "Options",
    "PlacedTicket",
    "Pruned",
    "RandomSearch",
    "Reached",
    "Recipe",
    "RegimeResult",
    "ReluFeatures",
    "ReproductionResult",
    "Sensitivity",
    "SignTransfer",
    "SparseDescent",
    "SweepResult",
    "Switched",
    "Tall",
    "Ticket",
    "TicketError",
    "TombolaError",
    "TopK",
    "Width",
    "attach",
    "barrier",
    "bench",
    "compact",
    "connectivity",
    "data",
    "delta",
    "deltas",
    "deploy",
    "detach",
    "double_descent",
    "find",
    "gradient",
    "gradual",
    "graph",
    "hold",
    "initialisations",
    "landscape",
    "levels",
    "machine",
    "make_permanent",
    "methods",
    "models",
    "nn",
    "pack",
    "prunable",
    "prune",
    "prune_channels",
    "prune_to",
    "read",
    "refresh",
    "regime",
    "report",
    "reproduce",
    "results",
    "rng",
    "runs",
    "search",
    "select",
    "sensitivity",
    "statistics_of",
    "study",
    "supermask",
    "sweep",
    "switch",
    "ticket",
    "train",
    "unpack",
    "verify",
    "what_if",
]
