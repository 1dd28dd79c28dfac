"""What a check at the resource is worth, from the weakest to the strongest."""

from __future__ import annotations

from enum import Enum


class Level(Enum):
    """What a check at the resource is worth; each fence says its own as `level`.

    A name alone is not among them: it cannot tell two tenures of one holder apart, so that a message of the
    first passes in the second, whatever happened in between.

    Attributes:
        ASKED: the lock's store was asked, and then it is written. It refuses nearly everything; what was
            stopped between the answer and the write gets through.
        HIGHEST_SEEN: the highest token seen is compared in the step of the write. A late write is refused
            once a later tenure has written; until then it passes, also if a later holder died before its
            first write.
        SEALED: the same, and every new holder shows its token before it works. Once the seal is in, nothing
            of an earlier tenure passes.
        GUARDED: the lock's own record is compared, in the transaction of the write, because both are in one
            store. Nothing passes but what the present tenure sends, with no assumption about time.
    """

    ASKED = "asked"
    HIGHEST_SEEN = "highest seen"
    SEALED = "sealed"
    GUARDED = "guarded"
