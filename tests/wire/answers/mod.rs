//! The table of answers. Each is asked for by a GET, and by an upload that is sent on as it comes.

mod bodies;
mod breaks;
mod heads;

use crate::table::Case;

pub(crate) fn all() -> Vec<Case> {
    let groups = [
        heads::statuses(),
        heads::bodiless(),
        heads::interim(),
        heads::passing(),
        heads::of_one_hop(),
        heads::malformed(),
        heads::first_lines(),
        heads::sizes(),
        bodies::lengths(),
        bodies::faulty_lengths(),
        bodies::chunks(),
        bodies::extensions_and_trailers(),
        bodies::faulty_chunks(),
        bodies::until_close(),
        bodies::to_old_clients(),
        breaks::cut(),
        breaks::within_heads(),
        breaks::behind_the_end(),
        breaks::early(),
    ];
    groups.into_iter().flatten().collect()
}
