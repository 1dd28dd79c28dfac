"""The completion script for bash, 3.2 or newer, with or without the package bash-completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Final

from leases.cli.shape import Value, Word
from leases.registry import OURS

if TYPE_CHECKING:
    from leases.cli.shape import Shape

_SCRIPT: Final = r"""# bash completion for leases; made by: leases completion bash

# What a word is: the value of an option of a command, or the argument in a position.
_leases_kind() {
    kind= choices=
    case "$1 $2" in
@KINDS@
    esac
}

_leases_options() {
    case $1 in
@OPTIONS@
    esac
}

# Behind "--" another command is completed as itself.
_leases_behind() {
    local at
    if declare -F _command_offset >/dev/null; then
        for ((at = 0; at < COMP_CWORD; at++)); do
            if [[ ${COMP_WORDS[at]} == -- ]]; then
                _command_offset $((at + 1))
                return
            fi
        done
    fi
    if (($1 == ${#words[@]} - 2)) && [[ $cur != */* ]]; then
        offered=$(compgen -c -- "$cur" | sort -u)
    else
        files=1 offered=$(compgen -f -- "$cur")
    fi
}

_leases_locks() {
    local -a backend=()
    local at
    for ((at = 2; at < ${#words[@]} - 1; at++)); do
        case ${words[at]} in
            --backend) backend=(--backend "${words[at + 1]}") ;;
            --backend=*) backend=("${words[at]}") ;;
        esac
    done
    "$1" list --names --quick "${backend[@]+"${backend[@]}"}" -- "$cur" 2>/dev/null
}

_leases_offer() {
    case $kind in
        lock) offered=$(_leases_locks "$1") ;;
        store)
            if [[ $cur == sqlite:* ]]; then
                files=1 offered=$(compgen -P sqlite: -f -- "${cur#sqlite:}")
            else
                offered=$'@STORES@'
            fi
            ;;
        file) files=1 offered=$(compgen -f -- "$cur") ;;
        choice) offered=${choices// /$'\n'} ;;
    esac
}

_leases() {
    local line=${COMP_LINE:0:COMP_POINT} cur command at position=0
    local kind choices offered= base= word breaks= raw files=
    local -a words
    read -ra words <<<"$line"
    if [[ $line == *[[:space:]] ]]; then words+=(""); fi
    cur=${words[${#words[@]} - 1]}
    command=${words[1]}
    COMPREPLY=()
    if ((${#words[@]} <= 2)); then
        offered=$'@COMMANDS@\n--help\n--version'
    else
        kind=
        for ((at = 2; at < ${#words[@]} - 1; at++)); do
            if [[ ${words[at]} == -- ]]; then break; fi
            if [[ -n $kind ]]; then  # It is the value of the option before it.
                kind=
            elif [[ ${words[at]} == -* ]]; then
                _leases_kind "$command" "${words[at]}"
            else
                position=$((position + 1))
            fi
        done
        if ((at < ${#words[@]} - 1)); then
            _leases_behind $at
        elif [[ -n $kind ]]; then
            _leases_offer "$1"
        elif [[ $cur == --*=* ]]; then
            base=${cur%%=*}=
            _leases_kind "$command" "${cur%%=*}"
            cur=${cur#*=}
            _leases_offer "$1"
        elif [[ $cur == -* ]]; then
            offered=$(_leases_options "$command")
        else
            _leases_kind "$command" $((position + 1))
            _leases_offer "$1"
        fi
    fi
    # Readline takes these for the borders of words, and wants only what comes behind the last of them.
    if [[ $COMP_WORDBREAKS == *:* ]]; then breaks+=:; fi
    if [[ $COMP_WORDBREAKS == *=* ]]; then breaks+==; fi
    raw=$base$cur
    if [[ -n $breaks ]]; then raw=${raw%"${raw##*[$breaks]}"}; else raw=; fi
    while IFS= read -r word; do
        if [[ -n $word && $word == "$cur"* ]]; then
            if [[ -n $files && -d ${word#sqlite:} && $word != */ ]]; then word+=/; fi
            word=$base$word
            COMPREPLY+=("$(printf %q "${word#"$raw"}")")
        fi
    done <<<"$offered"
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[:/=] ]] && type compopt &>/dev/null; then
        compopt -o nospace
    fi
}

complete -F _leases leases
"""


BEFORE_COMMAND: Final = Word("--", Value.CHOICE, ("--",))


def script(commands: Sequence[Shape]) -> str:
    """The script for these commands."""
    parts = {
        "KINDS": "\n".join(line for shape in commands for line in _kinds(shape)),
        "OPTIONS": "\n".join(map(_options, commands)),
        "COMMANDS": "\\n".join(shape.name for shape in commands),
        "STORES": "\\n".join(stores()),
    }
    text = _SCRIPT
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def stores() -> list[str]:
    """How the URLs of stores begin."""
    slashes = {"memory": "", "sqlite": "///"}
    return [f"{scheme}:{slashes.get(scheme, '//')}" for scheme in OURS]


def _kinds(shape: Shape) -> Iterator[str]:
    for option in shape.options:
        if option.value is not None:
            yield _kind([f"{shape.name} {name}" for name in option.names], option.value)
    for position, word in enumerate(shape.words, 1):
        yield _kind([f"{shape.name} {position}"], word)
    if shape.takes_command:
        yield _kind([f"{shape.name} {len(shape.words) + 1}"], BEFORE_COMMAND)


def _kind(patterns: Sequence[str], word: Word) -> str:
    choices = f" choices={quote(' '.join(word.choices))}" if word.choices else ""
    kind = "choice" if word.choices else word.value.value
    return f"        {'|'.join(map(quote, patterns))}) kind={kind}{choices} ;;"


def _options(shape: Shape) -> str:
    names = " ".join(name for option in shape.options for name in option.names)
    return f"        {shape.name}) printf '%s\\n' {names} ;;"
