"""The completion script for fish, 3 or newer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from leases.cli.complete_bash import BEFORE_COMMAND, stores
from leases.cli.shape import Value

if TYPE_CHECKING:
    from leases.cli.shape import Option, Shape, Word

_HEAD: Final = r"""# fish completion for leases; made by: leases completion fish

function __leases_first
    test (count (commandline -opc)) -eq 1
end

# Whether this command is being typed, and not another behind its "--".
function __leases_is
    set -l typed (commandline -opc)
    test (count $typed) -ge 2; and test "$typed[2]" = $argv[1]; and not contains -- -- $typed
end

# The same, in a position: COMMAND POSITION OPTIONS-WITH-VALUES...
function __leases_at
    __leases_is $argv[1]; or return 1
    set -l typed (commandline -opc)
    set -l position 1
    set -l skip 0
    for word in $typed[3..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word $argv[3..-1]
            set skip 1
        else if not string match -q -- '-*' $word
            set position (math $position + 1)
        end
    end
    test $skip = 0; and test $position -eq $argv[2]
end

function __leases_locks
    set -l typed (commandline -opc)
    set -l backend
    for at in (seq 3 (count $typed))
        switch $typed[$at]
            case --backend
                set backend --backend $typed[(math $at + 1)]
            case '--backend=*'
                set backend $typed[$at]
        end
    end
    leases list --names --quick $backend -- (commandline -ct) 2>/dev/null
end

function __leases_stores
    printf '%s\n' @STORES@
    set -l file (string match -r '^sqlite:(.*)' -- (string replace -r '^--backend=' '' -- (commandline -ct)))
    if test (count $file) -eq 2
        string replace -r '^' 'sqlite:' -- (__fish_complete_path $file[2])
    end
end

function __leases_behind
    contains -- -- (commandline -opc)
end

# Behind "--" another command is completed as itself.
function __leases_command
    set -l typed (commandline -opc) (commandline -ct)
    set -l at (contains -i -- -- $typed)
    complete -C (string join ' ' -- (string escape -- $typed[(math $at + 1)..-2]) (commandline -ct))
end

complete -c leases -e
complete -c leases -f
complete -c leases -n __leases_first -s h -l help -d 'what the commands are'
complete -c leases -n __leases_first -s V -l version -d 'which leases this is'
complete -c leases -n __leases_behind -a '(__leases_command)'
"""


def script(commands: Sequence[Shape]) -> str:
    """The script for these commands."""
    lines = [line for shape in commands for line in _lines(shape)]
    return _HEAD.replace("@STORES@", " ".join(stores())) + "\n".join(lines) + "\n"


def _lines(shape: Shape) -> Iterator[str]:
    yield f"\ncomplete -c leases -n __leases_first -a {shape.name} -d {_quoted(shape.summary)}"
    yield from (_option(shape.name, option) for option in shape.options)
    valued = [name for option in shape.options if option.value is not None for name in option.names]
    words = [*shape.words, *([BEFORE_COMMAND] if shape.takes_command else [])]
    for position, word in enumerate(words, 1):
        at = " ".join(["__leases_at", shape.name, str(position), *valued])
        yield f"complete -c leases -n {_quoted(at)}{_offer(word)}"


def _option(command: str, option: Option) -> str:
    names = (f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = (
        ""
        if option.value is None
        else (" -r" if option.value.value is Value.FILE else " -x") + _offer(option.value)
    )
    is_it = _quoted(f"__leases_is {command}")
    return f"complete -c leases -n {is_it} {' '.join(names)}{value} -d {_quoted(option.help)}"


def _offer(word: Word) -> str:
    if word.choices:
        return f" -a {_quoted(' '.join(word.choices))}"
    match word.value:
        case Value.LOCK:
            return " -a '(__leases_locks)'"
        case Value.STORE:
            return " -a '(__leases_stores)'"
        case Value.FILE:
            return " -F"
        case _:
            return ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
