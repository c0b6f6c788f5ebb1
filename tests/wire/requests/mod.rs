//! The table of requests. Each row names the rule that it stands for by what it expects; the RFC is cited where the rule is not plain.

mod bodies;
mod connections;
mod fields;
mod frames;
mod lines;

use crate::table::Case;

pub(crate) fn all() -> Vec<Case> {
    let groups = [
        lines::methods(),
        lines::targets(),
        lines::odd_targets(),
        lines::forms(),
        lines::versions(),
        fields::passing(),
        fields::of_one_hop(),
        fields::sizes(),
        fields::malformed(),
        fields::hosts(),
        bodies::lengths(),
        bodies::faulty_lengths(),
        bodies::chunks(),
        bodies::extensions_and_trailers(),
        bodies::faulty_chunks(),
        bodies::two_framings(),
        connections::pipelined(),
        connections::pipelined_faults(),
        connections::half_closed(),
        connections::expecting(),
        connections::given_up(),
        frames::pseudo_fields(),
        frames::fields(),
        frames::bodies(),
    ];
    groups.into_iter().flatten().collect()
}
