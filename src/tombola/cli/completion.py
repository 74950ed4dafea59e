"""completion: the script by which a shell completes commands, options and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType
from typing import Any, get_args

from jsonargparse import ArgumentParser, Namespace

from tombola.cli.screen import Screen
from tombola.cli.verb import DEFAULT_METHOD, Verb
from tombola.data.config import CUES, NOISES
from tombola.errors import TombolaError
from tombola.models.registry import names as model_names
from tombola.names import unknown
from tombola.train.loggers import LOGGERS
from tombola.train.recipe import PRECISIONS, SCHEDULES

VALUES: Mapping[str, tuple[str, ...]] = {
    "--model": tuple(name.replace("-K", "-10") for name in model_names()),
    "--data": ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder"),
    "--init": (
        *("kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform", "signed_constant"),
        *("unsigned_constant", "xavier_constant", "lecun_normal", "torch_default"),
    ),
    "--criterion": (
        *("magnitude", "large_final", "small_final", "large_init", "small_init", "large_init_large_final"),
        *("small_init_small_final", "magnitude_increase", "movement", "random", "large_final_same_sign"),
        *("large_final_diff_sign", "magnitude_increase_same_sign", "magnitude_increase_diff_sign", "snip", "grad"),
        *("grasp", "synflow", "ntk_sap", "px", "taylor", "wanda"),
    ),
    "--kept_action": tuple(
        name + end
        for end in ("", "_rescaled")
        for name in (
            *("rewind", *(f"{a}{s}" for a in ("reinit", "reshuffle", "constant") for s in ("", "_same_sign"))),
            *(f"{a}_trained_sign" for a in ("rewind", "reinit", "reshuffle", "constant")),
        )
    ),
    "--pruned_action": (
        *("zero", "freeze", "freeze_reinit", "zero_or_freeze", "zero_or_freeze_all", "zero_or_freeze_reshuffled"),
        *("zero_or_freeze_reversed", "train"),
    ),
    "--optimizer": ("sgd", "adam", "adamw"),
    "--schedule": SCHEDULES,
    "--precision": PRECISIONS,
    "--loggers": tuple(LOGGERS),
    "--cue.kind": CUES,
    "--label_noise_kind": NOISES,
    "--scope": ("layer", "global"),
    "--pattern": ("element", "block:4", "inputs:4", "2:4", "channel"),
    "--rewind": ("init", "lr"),
    "--device": ("auto", "cpu", "cuda"),
    "--controls": ("random", "reinit"),
    "--signs": ("trained", "origin", "own"),
    "--activations": ("float", "binary"),
    "--values": ("float32", "float16", "bfloat16", "int8"),
    "--formats": ("onnx", "state_dict", "torch", "c", "onnx_kernels"),
    "export --weights": ("final", "origin"),
    "at-init --layers": ("uniform", "erk", "given"),
    "learned-mask --weights": ("identity", "signed_constant"),
    "learned-mask --rule": ("bernoulli", "threshold", "intermediate"),
}
"""Values of an option, or of the option of one command only; written out so that torch is not loaded."""

_FILES = ("--config", "--out", "--data_root", "--checkpoint", "--start", "--plan", "--arms", "--tickets")


@dataclass(frozen=True)
class Words:
    """All that can be completed: commands by their prefix, options by command, values by option."""

    commands: Mapping[str, tuple[str, ...]]
    options: Mapping[str, tuple[str, ...]]
    values: Mapping[str, tuple[str, ...]]

    @property
    def paths(self) -> tuple[str, ...]:
        """The words of commands that may stand before the one to be completed, each with a space in front."""
        return tuple(path for path in dict.fromkeys([*self.commands, *self.options]) if path)


def verb(others: Iterable[Verb]) -> Verb:
    """`completion`, of the other commands."""
    verbs = list(others)

    def run(given: Namespace, screen: Screen) -> Mapping[str, Any]:
        if given["shell"] not in _SCRIPTS:
            raise TombolaError(unknown("shell", given["shell"], _SCRIPTS))
        print(_SCRIPTS[given["shell"]](words_of([*verbs, own])), end="")
        return {"shell": given["shell"]}

    summary = 'Print the completion script of a shell: eval "$(tombola completion bash)".'
    own = Verb(("completion",), summary, _add, run)
    return own


def _add(parser: ArgumentParser) -> None:
    parser.add_argument("shell", type=str, help="bash, zsh or fish")


def words_of(verbs: Iterable[Verb]) -> Words:
    """The words of the commands' own parsers."""
    commands: dict[str, tuple[str, ...]] = {}
    options: dict[str, tuple[str, ...]] = {}
    flags: dict[str, tuple[str, ...]] = {}
    for known in verbs:
        path = ""
        for word in known.words:
            commands[path] = tuple(dict.fromkeys([*commands.get(path, ()), word]))
            path = f"{path} {word}"
        kinds = _options(known.parser())
        options[path] = tuple(kinds)
        flags |= {name: ("true", "false") for name, kind in kinds.items() if _is_flag(kind)}
    for path, nexts in commands.items():
        if DEFAULT_METHOD in nexts:  # whose name may be left out
            options[path] = options[f"{path} {DEFAULT_METHOD}"]
    return Words(commands | {" completion": tuple(_SCRIPTS)}, options, {**flags, **VALUES})


def _options(parser: ArgumentParser) -> dict[str, Any]:
    """Options -> types, those of nested dataclasses too."""
    kinds: dict[str, Any] = {}
    for action in parser._actions:
        kind = getattr(action, "_typehint", None)
        for name in action.option_strings:
            if name.startswith("--") and not name.endswith(("+", ".help")):
                kinds[name] = kind
        for part in () if action.dest.endswith(".help") else get_args(kind):
            if isinstance(part, type) and is_dataclass(part):
                kinds |= {f"--{action.dest}.{item.name}": item.type for item in fields(part)}
    return kinds


def _is_flag(kind: Any) -> bool:
    return kind in (bool, "bool") or (bool in get_args(kind) and set(get_args(kind)) <= {bool, NoneType})


_BASH = """\
# Completion of tombola for bash: eval "$(tombola completion bash)"
_tombola() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} typed="" nexts="" i
    [[ $cur == "=" ]] && cur=""
    [[ $prev == "=" ]] && prev=${COMP_WORDS[COMP_CWORD-2]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$typed ${COMP_WORDS[i]}" in
            @PATHS@) typed="$typed ${COMP_WORDS[i]}" ;;
            *) break ;;
        esac
    done
    COMPREPLY=()
    case "$typed $prev" in
        @FILES@) return ;;
@VALUES@
    esac
    if [[ -z $nexts && $cur == -* ]]; then
        case "$typed" in
@OPTIONS@
        esac
    elif [[ -z $nexts ]]; then
        case "$typed" in
@COMMANDS@
        esac
    fi
    COMPREPLY=($(compgen -W "$nexts" -- "$cur"))
}
complete -o default -F _tombola tombola
"""
_ZSH = """\
# Completion of tombola for zsh: eval "$(tombola completion zsh)"
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""
_FISH = """\
# Completion of tombola for fish: tombola completion fish | source
function __tombola_nexts
    set -l before (commandline -opc)
    set -l cur (commandline -ct)
    set -l typed ''
    set -l nexts
    for word in $before[2..-1]
        switch "$typed $word"
            case @PATHS@
                set typed "$typed $word"
            case '*'
                break
        end
    end
    switch "$typed $before[-1]"
        case @FILES@
            __fish_complete_path $cur
            return
@VALUES@
    end
    if test -z "$nexts"; and string match -q -- '-*' "$cur"
        switch "$typed"
@OPTIONS@
        end
    else if test -z "$nexts"
        switch "$typed"
@COMMANDS@
            case '*'
                __fish_complete_path $cur
        end
    end
    printf '%s\\n' $nexts
end
complete -c tombola -f -a '(__tombola_nexts)'
"""


def _bash(words: Words) -> str:
    line = '            "{}") nexts="{}" ;;'
    return _filled(
        _BASH, words, paths='"{}"', between="|", ending='*" {}"', value='        *" {}") nexts="{}" ;;', line=line
    )


def _zsh(words: Words) -> str:
    return _ZSH + _bash(words).split("\n", 1)[1]


def _fish(words: Words) -> str:
    value = "        case '* {}'\n            set nexts {}"
    line = "            case '{}'\n                set nexts {}"
    return _filled(_FISH, words, paths="'{}'", between=" ", ending="'* {}'", value=value, line=line)


def _filled(script: str, words: Words, *, paths: str, between: str, ending: str, value: str, line: str) -> str:
    """A script with its placeholders filled, each in the shell's form."""
    # the values of an option of one command come before those of its namesakes
    values = sorted(words.values.items(), key=lambda item: item[0].startswith("--"))
    parts = {
        "PATHS": between.join(map(paths.format, words.paths)),
        "FILES": between.join(map(ending.format, _FILES)),
        "VALUES": "\n".join(value.format(name, " ".join(known)) for name, known in values),
        "OPTIONS": "\n".join(line.format(path, " ".join(known)) for path, known in words.options.items()),
        "COMMANDS": "\n".join(line.format(path, " ".join(known)) for path, known in words.commands.items()),
    }
    for name, part in parts.items():
        script = script.replace(f"@{name}@", part)
    return script


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
