"""The stages of a large sum over the link: each site's choice, its shares, its vectors, its word on who survived."""

from __future__ import annotations

import numpy as np

from common.large_messages import (
    ChooseRequest,
    Chosen,
    LargeCheckRequest,
    LargeMasked,
    LargeMaskRequest,
    LargeRevealRequest,
    LargeShareRequest,
    LargeShares,
)
from common.messages import Advert, Checked, Revealed
from common.secagg.graph import STANDARD, Promise
from common.secagg.roster import Roster
from server.channel import Channel
from server.neighbours import (
    Dealing,
    Gathering,
    LargeSum,
    LargeSurvivors,
    agreement,
    close,
    draw,
    gather,
    take_shares,
)
from server.unmask_large import unmask_large, wrong_large_shares


def collect_large(
    channel: Channel, roster: Roster, smallest: int, promise: Promise = STANDARD
) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Make one sum over more sites than can all mask with each other: each block's sum and the sites in it.

    Raises:
        RoundAborted: too few sites were left at some stage; nothing was learned.
    """
    task = channel.task
    adverts = {name: reply.advert for name, reply in channel.ask(dict.fromkeys(channel.nodes, task), Advert)}
    gathering = gather(adverts, roster, smallest, promise)
    channel.lose_all("Advert", gathering.left_out)
    total = _masked(channel, _dealing(channel, gathering))
    return _opened(channel, total)


def _dealing(channel: Channel, gathering: Gathering) -> Dealing:
    """Stages 1 and 2: all choose before anybody sees an advert, then deal to those that they chose."""
    assembly = gathering.assembly
    where, call = _where(channel), assembly.call
    places = {assembly.name(place): place for place in assembly.members}
    asked = dict.fromkeys(places, ChooseRequest(*where, call.present, call.degree, call.threshold))
    graph = draw(gathering, {places[name]: reply.places for name, reply in channel.ask(asked, Chosen)})
    shares = {
        assembly.name(place): LargeShareRequest(*where, adverts=graph.adverts_for(place)) for place in graph.choices
    }
    largest = gathering.reply_bytes(call.degree)
    replies = channel.ask(shares, LargeShares, largest_bytes=largest)
    dealing = take_shares(graph, {places[name]: reply.boxes for name, reply in replies})
    sent = {assembly.name(place) for place in dealing.boxes}
    channel.lose_all("LargeShares", dict.fromkeys(set(places) - sent, "not as asked for"))
    return dealing


def _masked(channel: Channel, dealing: Dealing) -> LargeSum:
    """Stage 3: masked vectors, each added as it arrives and dropped before the next one."""
    assembly, total = dealing.graph.gathering.assembly, LargeSum(dealing)
    places = {assembly.name(place): place for place in dealing.boxes}
    asked = {name: _mask_request(channel, dealing, place) for name, place in places.items()}
    for name, masked in channel.ask(asked, LargeMasked, largest_bytes=total.largest_bytes):
        if not total.add(places[name], masked.vectors, masked.tags):
            channel.lose(name, "LargeMasked", "not as advertised")
    return total


def _mask_request(channel: Channel, dealing: Dealing, place: int) -> LargeMaskRequest:
    inbox = dealing.inbox(place)
    return LargeMaskRequest(
        *_where(channel),
        senders=dealing.senders,
        dealers=list(inbox),
        adverts=[advert for advert, _ in inbox.values()],
        boxes=[box for _, box in inbox.values()],
    )


def _opened(channel: Channel, total: LargeSum) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Stages 4 and 5: everybody signs the same view, then reveals the shares that fit it."""
    survivors = close(total)
    name_of = survivors.dealing.graph.gathering.assembly.name
    places = {name_of(place): place for place in sorted(survivors.alive)}
    checks = {name: _check_request(channel, survivors, place) for name, place in places.items()}
    signed = {places[name]: reply.signature for name, reply in channel.ask(checks, Checked)}
    agreed = agreement(survivors, signed)
    asked = {
        name_of(place): LargeRevealRequest(*_where(channel), list(found), list(found.values()))
        for place, found in agreed.items()
        if place in signed
    }
    dealing = survivors.dealing
    largest = dealing.graph.gathering.reply_bytes(max(map(len, dealing.dealers.values())))
    reveals = {places[name]: reply.shares for name, reply in channel.ask(asked, Revealed, largest_bytes=largest)}
    channel.lose_all("Revealed", wrong_large_shares(survivors, reveals))
    return unmask_large(survivors, total, reveals)


def _check_request(channel: Channel, survivors: LargeSurvivors, place: int) -> LargeCheckRequest:
    tags = survivors.tags_for(place)
    return LargeCheckRequest(*_where(channel), survivors.bitmap, list(tags), list(tags.values()))


def _where(channel: Channel) -> tuple[str, int, str]:
    return channel.task.run, channel.task.round, channel.task.purpose
