"""The completion script for zsh, for a directory of $fpath or to be sourced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from leases.cli.complete_bash import stores
from leases.cli.shape import Value

if TYPE_CHECKING:
    from leases.cli.shape import Option, Shape, Word

_SCRIPT: Final = r"""#compdef leases
# zsh completion for leases; made by: leases completion zsh

_leases_locks() {
    local -a names backend
    if (( $+opt_args[--backend] )); then backend=(--backend ${(Q)opt_args[--backend]}); fi
    names=(${(f)"$(leases list --names --quick $backend -- ${(Q)PREFIX} 2>/dev/null)"})
    compadd -X '%Block%b' -- $names
}

_leases_stores() {
    if compset -P 'sqlite:'; then
        _files
    else
        compadd -S '' -X '%Bstore%b' -- @STORES@
    fi
}

# Behind "--" another command is completed as itself; before it there can be none.
_leases_command() {
    if [[ $LBUFFER != *' -- '* ]]; then
        compadd -- --
        return
    fi
    local -a typed=(${(z)${LBUFFER#*' -- '}})
    local behind=$#typed
    if [[ $LBUFFER == *' ' ]]; then (( behind++ )); fi
    words=("${(@)words[CURRENT - behind + 1, -1]}")
    CURRENT=$behind
    _normal
}

_leases() {
    local curcontext="$curcontext" state line ret=1
    typeset -A opt_args
    local -a ours
    ours=(
@COMMANDS@
    )
    _arguments -C \
        '(- *)'{-h,--help}'[what the commands are]' \
        '(- *)'{-V,--version}'[which leases this is]' \
        '1: :->command' \
        '*:: :->rest' && ret=0
    case $state in
        command) _describe -t commands command ours && ret=0 ;;
        rest)
            case $words[1] in
@CASES@
            esac
            ;;
    esac
    return ret
}

if [[ $funcstack[1] == _leases ]]; then
    _leases "$@"
elif (( $+functions[compdef] )); then
    compdef _leases leases
fi
"""


def script(commands: Sequence[Shape]) -> str:
    """The script for these commands."""
    parts = {
        "COMMANDS": "\n".join(f"        {_quoted(_plain(shape.name, shape.summary))}" for shape in commands),
        "CASES": "\n".join(map(_case, commands)),
        "STORES": " ".join(stores()),
    }
    text = _SCRIPT
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _case(shape: Shape) -> str:
    specs = [*(spec for option in shape.options for spec in _option(option)), *_words(shape)]
    lines = " \\\n".join(f"                        {spec}" for spec in specs)
    indent = " " * 16
    return f"{indent}{shape.name})\n{indent}    _arguments -s -S \\\n{lines} && ret=0\n{indent}    ;;"


def _option(option: Option) -> Iterator[str]:
    """One line for all its names: none is offered once another of them stands there, unless it may again."""
    others = " ".join(option.names)
    text = f"[{_escaped(option.help)}]"
    for name in option.names:
        again = "*" if option.value is not None and option.value.shown == "K=V" else f"({others})"
        joined = "" if option.value is None else "=" if name.startswith("--") else "+"
        yield _quoted(f"{again}{name}{joined}{text}{'' if option.value is None else _value(option.value)}")


def _words(shape: Shape) -> Iterator[str]:
    for position, word in enumerate(shape.words, 1):
        yield _quoted(f"{position}{':' * (1 + word.optional)}{_value(word).removeprefix(':')}")
    if shape.takes_command:
        yield _quoted("*::command:_leases_command")


def _value(word: Word) -> str:
    actions = {
        Value.LOCK: "_leases_locks",
        Value.STORE: "_leases_stores",
        Value.FILE: "_files",
        Value.OTHER: " ",
    }
    action = f"({' '.join(word.choices)})" if word.choices else actions.get(word.value, " ")
    return f":{_escaped(word.shown)}:{action}"


def _plain(name: str, summary: str) -> str:
    return f"{name}:{summary}"


def _escaped(text: str) -> str:
    """What stands between brackets and colons of a specification."""
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
