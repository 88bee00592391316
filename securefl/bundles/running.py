"""Which bundle runs: at a party one that it approved, at a server one whose author is on its roster.

What it does not protect: a server may run another bundle than the parties expect; then the hash in the name of its run is not
theirs, and nobody takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from protocols.errors import Refused
from securefl.bundles.contents import Bundle
from securefl.bundles.kept import Kept, is_hash, one_of
from securefl.bundles.signed import SignedBundle
from securefl.errors import UserError, printable
from securefl.transport.desk_words import LARGEST_BUNDLE, Listed
from securefl.transport.enrolment import Credentials
from securefl.transport.keyfiles import read_public
from securefl.transport.roster import SignedRoster

if TYPE_CHECKING:
    from torch import nn

    from securefl.store import Shelf
    from securefl.trainer import ClientTrainer
    from securefl.usercode.isolation import Isolation


def code_of(bundle: Bundle, isolation: Isolation) -> tuple[ClientTrainer, nn.Module] | None:
    """Trainer and model of a bundle's code, which run in children behind these walls; None where it has none.

    Raises:
        UserError: where there are no walls.
        CodeFault: where the code fails at once.
    """
    if not bundle.code:
        return None
    from securefl.usercode.remote import trainer_of  # noqa: PLC0415  (loads torch)

    rate = bundle.job.performance.learning_rate
    return trainer_of(bundle.code, bundle.about.entry or "", isolation, learning_rate=rate)


def of_party(named: str | None, credentials: Credentials, listed: Callable[[], Listed]) -> SignedBundle:
    """The bundle that a party runs: the one named, or the one that the server runs, if this party approved it.

    Args:
        named: the first digits of its hash; None leaves it to the server which of the approved ones it is.
        credentials: of the party.
        listed: what the server has, asked for where none is named.

    Raises:
        UserError: where this party did not approve it or refused it, it was altered, or its author is not good.
    """
    kept = Kept(credentials)
    if named is None:
        running = listed().running
        if len(running) != 32:
            raise UserError("the server runs no bundle: give --job, or wait until it does")
        kept = Kept(Credentials.load(credentials.folder, "party"))  # the roster may be newer now
        signed = kept.approved(running)
    else:
        signed = kept.approved(kept.named(named))
    signed.bundle.checked()
    return signed


def of_server(named: str, credentials: Credentials, roster: SignedRoster, shelf: Shelf) -> SignedBundle:
    """The bundle that a server runs: from its shelf, by the first digits of its hash, or out of a file, which then goes there.

    Raises:
        UserError: where there is none, its author is not good by the roster, or its parts do not fit together.
    """
    if is_hash(named):
        digest = one_of(named, (one.digest for one in shelf.listed()), "shelf", ": securefl jobs lists them")
        document = shelf.get(digest) or b""
    else:
        document = read_public(Path(named), "the bundle", LARGEST_BUNDLE)
    try:
        signed = SignedBundle.read(document, credentials.authority)
        signed.check(roster)
        title = signed.bundle.checked().about.title
        good = {one.name for one in roster.entries if not one.revoked}
        shelf.put(signed.hash.hex(), signed.author, title, signed.document, good.__contains__)
    except Refused as error:
        raise UserError(f"the bundle {printable(named)} is refused: {error.check} ({printable(error.detail)})") from None
    return signed
